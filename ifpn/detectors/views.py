"""Test-time augmentation: an image at several sizes and mirrored, the detections of all merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

Found = dict[str, Tensor]  # boxes (M, 4), scores (M,), labels (M,)
MERGE_IOU = 0.5  # ours: of two boxes of a class that overlap more the weaker goes, as COCO's loosest match


def detect_views(
    detector: nn.Module, images: Sequence[Tensor], sizes: Sequence[int | None] = (None,), flip: bool = False
) -> list[Found]:
    """Detect in each image at each size, and in its mirror image; class-wise NMS merges what is found.

    Args:
        detector: in evaluation mode.
        images: (3, H, W) in 0..1 each.
        sizes: shorter sides in pixels that images are resized to; None: as trained.
        flip: whether the mirror image is looked at, too.

    Returns:
        One detection per image, best first: the detector's own for a single view, else at most its `max_detections`.
    """
    views: list[list[Found]] = []
    for size in sizes:
        with resized_to(detector, size):
            views.append(detector(images))
            if flip:
                mirrored = detector([image.flip(-1) for image in images])
                views.append([_mirrored(d, image.shape[-1]) for d, image in zip(mirrored, images, strict=True)])
    if len(views) == 1:
        return views[0]
    most = getattr(detector, "max_detections", None)
    return [_merged(of_image, most) for of_image in zip(*views, strict=True)]


def _mirrored(detection: Found, width: int) -> Found:
    boxes = detection["boxes"].clone()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return {**detection, "boxes": boxes}


def _merged(views: Sequence[Found], most: int | None) -> Found:
    boxes, scores, labels = (torch.cat([view[name] for view in views]) for name in ("boxes", "scores", "labels"))
    keep = batched_nms(boxes, scores, labels, MERGE_IOU)[:most]
    return {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}


@contextmanager
def resized_to(detector: nn.Module, size: int | None) -> Iterator[None]:
    """Resize images to another shorter side; the longest side allowed grows in proportion."""
    transform: Any = getattr(detector, "transform", None)
    if size is None or transform is None:
        yield
        return
    before = transform.min_size, transform.max_size
    transform.min_size, transform.max_size = (size,), max(size, round(before[1] * size / max(before[0])))
    try:
        yield
    finally:
        transform.min_size, transform.max_size = before
