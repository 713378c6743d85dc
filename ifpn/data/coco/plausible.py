"""Are boxes x, y, width, height in pixels? Corners, shares of the picture and other sizes show in their numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ifpn.data.coco.defects import TOLERANCE

# ours: a box leaves its image if it reaches over the edge by more than 2 pixels and 2 % of the longer side; a quarter
# of such boxes is more than pictures of cut objects have, and less than corners give (three quarters where the
# boxes are spread evenly)
FAR_PIXELS, FAR_SHARE, MOST_FAR = 2.0, 0.02, 0.25
LARGEST_SHARE = 1.5  # coordinates up to here are shares of the picture; in pixels no detector could use the box


def doubt(box: NDArray[np.float64], sizes: NDArray[np.int32]) -> str | None:
    """Say in a sentence why boxes are probably not x, y, width, height in pixels; None if they may be.

    Args:
        box: (B, 4) finite numbers as written.
        sizes: (B, 2) width and height of the image of each, 0 where unknown.
    """
    known = (sizes > LARGEST_SHARE).all(axis=1)
    box, sizes = box[known], sizes[known]
    if len(box) == 0:
        return None
    small = (np.abs(box) <= LARGEST_SHARE).all(axis=1) & (box[:, 2:] > 0).all(axis=1)
    if small.mean() > 0.5:
        return (
            f"{small.sum()} of {len(box)} boxes are smaller than two pixels and lie in 0..1, e.g. "
            f"{_shown(box[small])}: they look normalised, that is, shares of the picture's width and height"
        )
    over = np.maximum(box[:, :2] + box[:, 2:] - sizes, -box[:, :2]).max(axis=1)
    far = over > np.maximum(FAR_PIXELS, FAR_SHARE * sizes.max(axis=1))
    corners = (box[:, 2:] > box[:, :2]) & (box[:, 2:] <= sizes + FAR_PIXELS) & (box[:, :2] >= -FAR_PIXELS)
    as_corners = corners.all(axis=1).mean() > 0.9
    if far.sum() < (2 if as_corners else 10) or far.mean() <= MOST_FAR:
        return None
    why = (
        "they are probably corners x1, y1, x2, y2 and not x, y, width, height"
        if as_corners
        else "they were probably made for pictures of another size, or are not x, y, width, height in pixels"
    )
    return f"{(over > TOLERANCE).sum()} of {len(box)} boxes leave their images, e.g. {_shown(box[far])}: {why}"


def _shown(box: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in box[0]]


def remedy(sentence: str) -> str:
    """Name the setting that reads such boxes as what they look like."""
    if "normalised" in sentence:
        return "read them so with data.policy.box_format=xywhn (corners: xyxyn; centre, width, height: cxcywhn)"
    if "corners" in sentence:
        return "read them so with data.policy.box_format=xyxy"
    return "correct the file, or its images"


def to_xywh(box: NDArray[np.float64], sizes: NDArray[np.int32], box_format: str) -> NDArray[np.float64]:
    """Turn boxes (B, 4) of a `DefectPolicy.box_format` into x, y, width, height in pixels."""
    if box_format == "xywh":
        return box
    box = box.copy()
    if box_format.endswith("n"):
        box *= np.concatenate([sizes, sizes], axis=1)
    if box_format.startswith("xyxy"):
        box[:, 2:] -= box[:, :2]
    elif box_format.startswith("cxcywh"):
        box[:, :2] -= box[:, 2:] / 2
    return box
