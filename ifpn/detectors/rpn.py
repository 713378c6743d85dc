"""Region proposals for Faster R-CNN: torchvision's network with exact strides, L1 and fixed normalisers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from ifpn.detectors.anchors import AnchorGrid
from ifpn.detectors.matching import match_anchors


class AnchorAdapter(nn.Module):
    """The anchors of a grid in the form that torchvision's proposal network asks for.

    torchvision's own generator divides the padded image by the map's size to get the stride: 61 instead of
    64 px on the sixth level of an 800 x 1344 image.
    """

    def __init__(self, grid: AnchorGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, images: ImageList, features: list[Tensor]) -> list[Tensor]:
        """One (A, 4) xyxy tensor per image, all the same."""
        return [self.grid.for_features(features).boxes] * len(images.image_sizes)


class ProposalMatcher:
    """IoU matching in which a box that overlaps no anchor gets none (torchvision would give it all)."""

    BELOW_LOW_THRESHOLD = -1
    BETWEEN_THRESHOLDS = -2

    def __init__(self, background: float, foreground: float) -> None:
        self.background, self.foreground = background, foreground

    def __call__(self, overlap: Tensor) -> Tensor:
        """(G, A) IoU -> (A,) box index, -1 for background, -2 for ignored."""
        return match_anchors(overlap, self.background, self.foreground, low_quality=True)


class ProposalHead(RPNHead):  # type: ignore[misc]  # torchvision ships no types
    """A 3x3 convolution, objectness and box offsets; outputs in float32 also under autocast."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """[(N, C, H, W)] -> [(N, anchors, H, W)] objectness logits and [(N, 4 * anchors, H, W)] offsets."""
        objectness, deltas = super().forward(x)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]  # torchvision ships no types
    """torchvision's region proposal network with the losses of cvpods.

    Both losses are sums divided by `batch_size_per_image * N`, a constant, so that neither images with
    few anchors to sample nor the split of a batch over processes changes the weight of a sample. Box loss:
    L1.

    Args:
        channels: channels of the pyramid.
        grid: the anchors.
        foreground_iou, background_iou: of matching.
        batch_size_per_image: anchors sampled per image.
        positive_fraction: at most this part of them is positive.
        pre_nms_top_n: proposals per level before NMS, (training, evaluation).
        post_nms_top_n: proposals per image after NMS, (training, evaluation).
        nms_threshold: IoU above which the weaker of two proposals of a level goes.
    """

    def __init__(
        self,
        channels: int,
        grid: AnchorGrid,
        *,
        foreground_iou: float,
        background_iou: float,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_top_n: tuple[int, int],
        post_nms_top_n: tuple[int, int],
        nms_threshold: float,
    ) -> None:
        super().__init__(
            AnchorAdapter(grid),
            ProposalHead(channels, grid.per_cell),
            foreground_iou,
            background_iou,
            batch_size_per_image,
            positive_fraction,
            dict(zip(("training", "testing"), pre_nms_top_n, strict=True)),
            dict(zip(("training", "testing"), post_nms_top_n, strict=True)),
            nms_threshold,
        )
        self.proposal_matcher = ProposalMatcher(background_iou, foreground_iou)
        self.batch_size_per_image = batch_size_per_image

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss of sampled anchors.

        Args:
            objectness: (N * A, 1) logits.
            pred_bbox_deltas: (N * A, 4) offsets.
            labels: (A,) per image: 1 positive, 0 background, -1 ignored.
            regression_targets: (A, 4) per image.
        """
        positive, negative = (torch.cat(masks).bool() for masks in self.fg_bg_sampler(labels))
        sampled = (positive | negative).nonzero()[:, 0]
        chosen = positive.nonzero()[:, 0]
        truth, logits = torch.cat(labels), objectness.flatten()
        targets = torch.cat(regression_targets)
        normaliser = self.batch_size_per_image * len(labels)
        cls = F.binary_cross_entropy_with_logits(logits[sampled], truth[sampled], reduction="sum")
        box = F.l1_loss(pred_bbox_deltas[chosen], targets[chosen], reduction="sum")
        return cls / normaliser, box / normaliser
