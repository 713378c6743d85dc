"""The one dense detector: RetinaNet, FCOS, ATSS and AutoAssign differ in head, anchors, box coder and criterion."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ifpn.bounds import shown
from ifpn.detectors.anchors import AnchorGrid, Anchors
from ifpn.detectors.batches import detect_by_size
from ifpn.detectors.body import BackboneWithNeck
from ifpn.detectors.boxes import BoxCoder
from ifpn.detectors.contract import Detection, Target, check_images, check_targets
from ifpn.detectors.heads import PointHead, Prediction, RetinaHead
from ifpn.detectors.postprocess import Postprocess
from ifpn.errors import UserError
from ifpn.necks import Stream

Part = TypeVar("Part")


class Criterion(Protocol):
    """Assignment of targets to locations, and the losses.

    Called with predictions, anchors and targets in pixels of the network's input; returns named scalar
    losses. Every parameter that the predictions depend on gets a gradient, whatever the targets hold.
    """

    def __call__(self, prediction: Prediction, anchors: Anchors, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses of a batch by name."""
        ...


class DenseDetector(nn.Module):
    """Body -> head -> losses, or detections. `conf/detector/` lists the parts of each detector.

    `head`, `anchors` and `criterion` are constructors whose settings are filled in and whose sizes are not. Each is
    called with those of these keywords that it takes: `channels` of the pyramid, `num_classes`, `strides`,
    `num_levels`, `anchors_per_cell` (not for `anchors`), and the coder as `box_coder` and `coding`.

    Args:
        body: images to pyramid.
        num_classes: K; labels are 0..K-1.
        head: makes the module that turns the pyramid into a `Prediction`.
        anchors: makes the `AnchorGrid` that the head's predictions sit on.
        box_coder: what four raw outputs of the head mean; head, criterion and postprocessing share this object.
        criterion: makes the module that follows `Criterion`.
        postprocess: predictions to detections.
        transform: resizes, normalises and pads the images, and undoes the resizing of detected boxes.
    """

    def __init__(
        self,
        body: BackboneWithNeck,
        num_classes: int,
        *,
        head: Callable[..., nn.Module],
        anchors: Callable[..., AnchorGrid],
        box_coder: BoxCoder,
        criterion: Callable[..., nn.Module],
        postprocess: Postprocess,
        transform: GeneralizedRCNNTransform,
    ) -> None:
        super().__init__()
        self.body = body
        self.num_classes = num_classes
        self.box_coder = box_coder
        sizes = {
            "channels": body.out_channels,
            "num_classes": num_classes,
            "strides": body.strides,
            "num_levels": len(body.strides),
            "box_coder": box_coder,
            "coding": box_coder,
        }
        self.anchors = complete(anchors, sizes)
        sizes["anchors_per_cell"] = self.anchors.per_cell
        self.head = complete(head, sizes)
        if isinstance(self.head, PointHead) and self.anchors.per_cell != 1:
            raise UserError(f"scales={shown(self.anchors.scales)}: must be one scale with one ratio for this head.")
        if isinstance(self.head, RetinaHead) and postprocess.score != "class":
            raise UserError(f"score={postprocess.score}: must be class with a head that predicts no quality.")
        self.criterion = complete(criterion, sizes)
        self.postprocess = postprocess
        self.transform = transform

    @property
    def max_detections(self) -> int:
        """Boxes of an image at most."""
        return self.postprocess.max_detections

    def stream(self) -> Stream:
        """Frames of a video, each of which starts its solve from the frame before; see `ifpn.necks.Stream`."""
        return Stream(self)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Detection]:
        """Return losses in training mode, detections in evaluation mode.

        In evaluation each image is padded to its own size alone, so that its detections do not depend on the others.

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
        if not self.training:
            return detect_by_size(self.transform, images, sizes, self.detect_batch)
        checked = check_targets(targets, len(images), self.num_classes)
        batch, checked = self.transform(list(images), checked)
        prediction, anchors = self._predict(batch)
        # losses and coordinates in float32: 1344 px or 1 / (1 - IoU) have no place in half precision
        with torch.autocast(device_type=batch.tensors.device.type, enabled=False):
            losses: dict[str, Tensor] = self.criterion(prediction, anchors, checked)
        return {**losses, **self.body.auxiliary_losses}

    def detect_batch(self, batch: ImageList) -> list[Detection]:
        """Detections of images that `transform` has resized and padded together, in pixels of the resized images."""
        prediction, anchors = self._predict(batch)
        with torch.autocast(device_type=batch.tensors.device.type, enabled=False):
            return self.postprocess(prediction, anchors, self.box_coder)

    def _predict(self, batch: ImageList) -> tuple[Prediction, Anchors]:
        pyramid = self.body(batch.tensors)
        prediction: Prediction = self.head(pyramid)
        return prediction, self.anchors.for_features(pyramid)


def complete(constructor: Callable[..., Part], sizes: Mapping[str, Any]) -> Part:
    """Call `constructor` with those of `sizes` that its signature names."""
    taken = inspect.signature(constructor).parameters
    return constructor(**{name: value for name, value in sizes.items() if name in taken})
