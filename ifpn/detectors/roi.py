"""The second stage of Faster R-CNN: pooled features of each proposal to its class and box."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_align

from ifpn.detectors.boxes import areas
from ifpn.detectors.contract import Detection, Target
from ifpn.detectors.losses import mean_over_ranks

CANONICAL_SIZE = 224  # px: a proposal of this side is pooled from level 4, stride 16 (FPN, Eq. 1)
CANONICAL_LEVEL = 4


class PyramidRoIAlign(nn.Module):
    """RoIAlign from the level that fits each proposal: floor(4 + log2(side / 224)) (FPN, Eq. 1).

    Sampling points are aligned (half a pixel shifted) and as many as the bin has cells, unlike torchvision's
    `MultiScaleRoIAlign`; scales are the exact inverse of the strides.

    Args:
        strides: of the levels to pool from, rising, powers of 2.
        output_size: bins per side.
    """

    def __init__(self, strides: tuple[int, ...], output_size: int) -> None:
        super().__init__()
        self.strides = strides
        self.output_size = output_size

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Maps (N, C, H_l, W_l) and (M_i, 4) boxes in pixels -> (sum of M_i, C, bins, bins) in float32."""
        maps = list(features.values())[: len(self.strides)]
        rois = torch.cat(proposals)
        # Not by len(p), a constant while a graph is traced for export.
        image = torch.cat([torch.full_like(p[:, :1], float(i)) for i, p in enumerate(proposals)])
        rois = torch.cat([image, rois], dim=1)
        side = areas(rois[:, 1:]).sqrt()
        finest = self.strides[0].bit_length() - 1
        level = (CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIZE + 1e-8)).floor() - finest
        level = level.clamp(0, len(maps) - 1).long()
        bins = self.output_size
        order, pooled = [], []
        for i, (stride, features_of_level) in enumerate(zip(self.strides, maps, strict=True)):
            chosen = (level == i).nonzero()[:, 0]
            # every level is pooled, also for no proposal, so that its parameters always have a gradient
            pooled.append(
                roi_align(features_of_level.float(), rois[chosen], bins, 1 / stride, sampling_ratio=0, aligned=True)
            )
            order.append(chosen)
        return torch.cat(pooled)[torch.cat(order).argsort()]


class BoxHead(RoIHeads):  # type: ignore[misc]  # torchvision ships no types
    """torchvision's RoI heads with L1, class-specific boxes and normalisers over the global batch.

    Labels are 0 for background and 1..K for classes here; `FasterRCNN` shifts them.

    Args:
        channels: channels of the pyramid.
        num_classes: K.
        strides: of the levels to pool from.
        pool_size: bins per side of RoIAlign.
        hidden: width of the two hidden layers.
        foreground_iou: proposals from here on are positive, all others background.
        batch_size_per_image: proposals sampled per image.
        positive_fraction: at most this part of them is positive.
        box_coder_weights: (w_x, w_y, w_w, w_h) of `DeltaCoder`.
        score_threshold, nms_threshold, max_detections: of the detections.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: tuple[int, ...],
        *,
        pool_size: int,
        hidden: int,
        foreground_iou: float,
        batch_size_per_image: int,
        positive_fraction: float,
        box_coder_weights: Sequence[float],
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> None:
        super().__init__(
            PyramidRoIAlign(strides, pool_size),
            TwoMLPHead(channels * pool_size**2, hidden),
            FastRCNNPredictor(hidden, num_classes + 1),
            foreground_iou,
            foreground_iou,
            batch_size_per_image,
            positive_fraction,
            tuple(box_coder_weights),
            score_threshold,
            nms_threshold,
            max_detections,
        )
        for layer in (self.box_head.fc6, self.box_head.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        for layer, std in ((self.box_predictor.cls_score, 0.01), (self.box_predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        """Losses in training mode, detections (labels from 1) in evaluation mode; the other is empty."""
        truth: tuple[list[Tensor], list[Tensor]] | None = None
        if self.training:
            proposals, _, labels, regression = self.select_training_samples(proposals, targets)
            truth = labels, regression
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        with torch.autocast(device_type=logits.device.type, enabled=False):
            if truth is not None:
                return [], box_head_losses(logits.float(), deltas.float(), *map(torch.cat, truth))
            found = self.postprocess_detections(logits.float(), deltas.float(), proposals, image_shapes)
        result = [{"boxes": b, "scores": s, "labels": c} for b, s, c in zip(*found, strict=True)]
        return cast(list[Detection], result), {}


def box_head_losses(logits: Tensor, deltas: Tensor, labels: Tensor, regression: Tensor) -> dict[str, Tensor]:
    """Cross entropy of all sampled proposals and L1 of positive ones, both over the number of proposals.

    Args:
        logits: (M, K + 1), background first.
        deltas: (M, 4 (K + 1)) box offsets of each class.
        labels: (M,) 0 for background.
        regression: (M, 4) targets.
    """
    count = mean_over_ranks(logits.new_tensor(float(len(labels)))).clamp(min=1)
    positive = (labels > 0).nonzero()[:, 0]
    own = deltas.view(len(deltas), -1, 4)[positive, labels[positive]]
    return {
        "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / count,
        "loss_box_reg": F.l1_loss(own, regression[positive], reduction="sum") / count,
    }
