"""The one dense detector: RetinaNet, FCOS, ATSS and AutoAssign differ in head, box coding and criterion."""

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ifpn.detectors.anchors import AnchorGrid, Anchors
from ifpn.detectors.body import BackboneWithNeck
from ifpn.detectors.boxes import BoxCoder
from ifpn.detectors.contract import Detection, Target, check_images, check_targets
from ifpn.detectors.heads import Prediction
from ifpn.detectors.postprocess import Postprocess, clip
from ifpn.necks import Stream


class Criterion(Protocol):
    """Assignment of targets to locations, and the losses.

    Called with predictions, anchors and targets in pixels of the network's input; returns named scalar
    losses. Every parameter that the predictions depend on gets a gradient, whatever the targets hold.
    """

    def __call__(self, prediction: Prediction, anchors: Anchors, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses of a batch by name."""
        ...


class DenseDetector(nn.Module):
    """BackboneWithNeck -> head -> losses, or detections.

    Args:
        body: images to pyramid.
        num_classes: K; labels are 0..K-1.
        head: pyramid to `Prediction`.
        grid: where the head's predictions sit.
        coding: what its box codes mean.
        criterion: an `nn.Module` that follows `Criterion`.
        postprocess: predictions to detections.
        transform: resizes, normalises and pads the images, and undoes the resizing of detected boxes.
    """

    def __init__(
        self,
        body: BackboneWithNeck,
        num_classes: int,
        *,
        head: nn.Module,
        grid: AnchorGrid,
        coding: BoxCoder,
        criterion: nn.Module,
        postprocess: Postprocess,
        transform: GeneralizedRCNNTransform,
    ) -> None:
        super().__init__()
        self.body = body
        self.num_classes = num_classes
        self.head = head
        self.grid = grid
        self.coding = coding
        self.criterion = criterion
        self.postprocess = postprocess
        self.transform = transform

    def stream(self) -> Stream:
        """Frames of a video, each of which starts its solve from the frame before; see `ifpn.necks.Stream`."""
        return Stream(self)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Detection]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: (3, H, W) each, float 0..1, of any sizes.
            targets: per image `boxes` (M, 4) xyxy in pixels of that image and `labels` (M,) in 0..K-1;
                other keys are ignored. M may be 0. Needed in training mode only.

        Returns:
            Named scalar losses, or per image `boxes` (xyxy float32, pixels of the given image),
            `scores` and `labels`, best first.

        Raises:
            ValueError, TypeError: images or targets of wrong shape, type or range.
        """
        sizes = check_images(images)
        checked = check_targets(targets, len(images), self.num_classes) if self.training else None
        batch, checked = self.transform(list(images), checked)
        pyramid = self.body(batch.tensors)
        prediction: Prediction = self.head(pyramid)
        anchors = self.grid.for_features(pyramid)
        # losses and coordinates in float32: 1344 px or 1 / (1 - IoU) have no place in half precision
        with torch.autocast(device_type=batch.tensors.device.type, enabled=False):
            if checked is not None:
                losses: dict[str, Tensor] = self.criterion(prediction, anchors, checked)
                return {**losses, **self.body.auxiliary_losses}
            found = self.postprocess(prediction, anchors, self.coding)
        found = cast(list[Detection], self.transform.postprocess(found, batch.image_sizes, sizes))
        return clip(found, sizes)
