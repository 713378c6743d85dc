"""Faster R-CNN (Ren et al. 2015) on a pyramid (FPN, Lin et al. 2017), from torchvision's parts."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ifpn.bounds import Count, Ge, Gt, Le, Length, Probability, check
from ifpn.detectors.anchors import AnchorGrid
from ifpn.detectors.batches import detect_by_size
from ifpn.detectors.body import BackboneWithNeck
from ifpn.detectors.contract import Detection, check_images, check_targets
from ifpn.detectors.roi import BoxHead
from ifpn.detectors.rpn import ProposalNetwork
from ifpn.errors import UserError
from ifpn.necks import Stream


@check
class FasterRCNN(nn.Module):
    """BackboneWithNeck -> proposals -> class and box of each proposal.

    Proposals come from all levels of the body, P2 to P6; features are pooled from all but the last, which
    is only a max-pooled P5. Number arguments: see conf/detector/faster_rcnn.yaml, where each stands with
    its source.
    """

    def __init__(
        self,
        body: BackboneWithNeck,
        num_classes: int,
        *,
        transform: GeneralizedRCNNTransform,
        anchor_scales: Annotated[Sequence[Annotated[float, Gt(0), Le(1000)]], Length(1)],
        anchor_ratios: Annotated[Sequence[Annotated[float, Gt(0), Le(1000)]], Length(1)],
        rpn_foreground_iou: Probability,
        rpn_background_iou: Probability,
        rpn_batch_size: Count,
        rpn_positive_fraction: Probability,
        rpn_pre_nms: Annotated[Sequence[Count], Length(2, 2)],
        rpn_post_nms: Annotated[Sequence[Count], Length(2, 2)],
        rpn_nms_threshold: Probability,
        pool_size: Annotated[int, Ge(1), Le(64)],
        hidden: Annotated[int, Ge(1), Le(8192)],
        foreground_iou: Probability,
        batch_size: Count,
        positive_fraction: Probability,
        box_coder_weights: Annotated[Sequence[Annotated[float, Gt(0), Le(10_000)]], Length(4, 4)],
        score_threshold: Probability,
        nms_threshold: Probability,
        max_detections: Count,
    ) -> None:
        if rpn_background_iou > rpn_foreground_iou:
            raise UserError(
                f"rpn_background_iou={rpn_background_iou}: must be at most rpn_foreground_iou={rpn_foreground_iou}."
            )
        super().__init__()
        self.body = body
        self.num_classes = num_classes
        self.max_detections = max_detections
        self.transform = transform
        self.rpn = ProposalNetwork(
            body.out_channels,
            AnchorGrid(body.strides, tuple(anchor_scales), tuple(anchor_ratios)),
            foreground_iou=rpn_foreground_iou,
            background_iou=rpn_background_iou,
            batch_size_per_image=rpn_batch_size,
            positive_fraction=rpn_positive_fraction,
            pre_nms_top_n=(rpn_pre_nms[0], rpn_pre_nms[1]),
            post_nms_top_n=(rpn_post_nms[0], rpn_post_nms[1]),
            nms_threshold=rpn_nms_threshold,
        )
        self.roi_heads = BoxHead(
            body.out_channels,
            num_classes,
            body.strides[:-1],
            pool_size=pool_size,
            hidden=hidden,
            foreground_iou=foreground_iou,
            batch_size_per_image=batch_size,
            positive_fraction=positive_fraction,
            box_coder_weights=box_coder_weights,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            max_detections=max_detections,
        )

    def stream(self) -> Stream:
        """Frames of a video, each of which starts its solve from the frame before; see `ifpn.necks.Stream`."""
        return Stream(self)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Detection]:
        """Losses in training mode, detections in evaluation mode.

        Arguments, results and errors as `DenseDetector.forward`; labels are 0..K-1 here too, the background class
        stays inside.
        """
        sizes = check_images(images)
        if not self.training:
            return detect_by_size(self.transform, images, sizes, self.detect_batch)
        checked = check_targets(targets, len(images), self.num_classes)
        shifted = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in checked]
        batch, shifted = self.transform(list(images), shifted)
        _, losses = self._stages(batch, shifted)
        return {**losses, **self.body.auxiliary_losses}

    def detect_batch(self, batch: ImageList) -> list[Detection]:
        """Detections of images that `transform` has resized and padded together, in pixels of the resized images."""
        found, _ = self._stages(batch, None)
        return [{**detection, "labels": detection["labels"] - 1} for detection in found]

    def _stages(
        self, batch: ImageList, targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        features = {str(i): level for i, level in enumerate(self.body(batch.tensors))}
        proposals, rpn_losses = self.rpn(batch, features, targets)
        found, losses = self.roi_heads(features, proposals, batch.image_sizes, targets)
        return found, {**rpn_losses, **losses}
