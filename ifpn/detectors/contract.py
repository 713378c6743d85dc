"""What goes into a detector and what comes out; the input is checked before any work is done."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor


class Target(TypedDict):
    """One image's truth: boxes (M, 4) xyxy in pixels of the given image, labels (M,) in 0..K-1."""

    boxes: Tensor
    labels: Tensor


class Detection(TypedDict):
    """One image's result, best first: boxes (M, 4) xyxy in pixels, scores (M,), labels (M,) in 0..K-1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def check_images(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """(height, width) of each image.

    Raises:
        ValueError: an empty list, or an image that is not (3, H, W) with H and W of at least 1.
        TypeError: an image of integers.
    """
    if len(images) == 0:
        raise ValueError("images is empty: pass at least one (3, H, W) tensor")
    for i, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3:
            raise ValueError(f"image {i} has shape {tuple(image.shape)}, expected (3, H, W)")
        if image.numel() == 0:
            raise ValueError(f"image {i} has shape {tuple(image.shape)}: it has no pixels")
        if not image.is_floating_point():
            raise TypeError(f"image {i} is {image.dtype}, expected floating point in 0..1 (divide by 255)")
    return [(image.shape[-2], image.shape[-1]) for image in images]


def check_targets(targets: Sequence[Mapping[str, Tensor]] | None, num_images: int, num_classes: int) -> list[Target]:
    """The targets reduced to float32 boxes and int64 labels.

    Raises:
        ValueError: no targets, missing keys, wrong shapes, a box that is not finite or has no positive width
            and height, or a label outside 0..num_classes - 1.
        TypeError: boxes that are not floating point, or labels that are.
    """
    if targets is None:
        raise ValueError("targets are needed in training mode; call .eval() to get detections")
    if len(targets) != num_images:
        raise ValueError(f"{len(targets)} targets for {num_images} images")
    checked = [_one(i, target) for i, target in enumerate(targets)]
    boxes = torch.cat([target["boxes"] for target in checked])
    labels = torch.cat([target["labels"] for target in checked])
    good = boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1) & (labels >= 0) & (labels < num_classes)
    if not good.all():  # one read of the device for the whole batch
        bad = int((~good).nonzero()[0])
        owner = [i for i, target in enumerate(checked) for _ in range(len(target["labels"]))][bad]
        raise ValueError(
            f"target {owner}: box {boxes[bad].tolist()} with label {int(labels[bad])}; boxes must be finite "
            f"xyxy with x2 > x1 and y2 > y1, labels in 0..{num_classes - 1}. Drop them from the data"
        )
    return checked


def _one(index: int, target: Mapping[str, Tensor]) -> Target:
    missing = [key for key in ("boxes", "labels") if key not in target]
    if missing:
        raise ValueError(f"target {index} has no {missing[0]!r}: it needs boxes (M, 4) and labels (M,), M may be 0")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"target {index}: boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}, expected (M, 4) and (M,)"
        )
    if not boxes.is_floating_point() or labels.is_floating_point():
        raise TypeError(
            f"target {index}: boxes are {boxes.dtype}, labels {labels.dtype}; "
            "expected floating-point boxes, integer labels"
        )
    return {"boxes": boxes.float(), "labels": labels.long()}
