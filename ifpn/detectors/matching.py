"""Which anchor learns which box, by overlap; and the boxes and labels of all locations that were matched."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ifpn.detectors.contract import Target

BACKGROUND = -1  # matched to no box
IGNORED = -2  # counts neither as positive nor as background


class Matches(NamedTuple):
    """The P positive locations of a batch.

    Attributes:
        images: (P,) image of each.
        locations: (P,) location within the image.
        boxes: (P, 4) xyxy target of each.
        labels: (P,) its class.
    """

    images: Tensor
    locations: Tensor
    boxes: Tensor
    labels: Tensor


def gather_matches(matched: Tensor, targets: Sequence[Target]) -> Matches:
    """The positive locations of `matched` (N, A), box indices within each image (negative: not positive)."""
    images, locations = (matched >= 0).nonzero(as_tuple=True)
    counts = [len(target["labels"]) for target in targets]
    first = torch.tensor([0, *counts], device=matched.device).cumsum(0)  # of each image in the joint list of boxes
    index = matched[images, locations] + first[images]
    boxes = torch.cat([target["boxes"] for target in targets])[index]
    labels = torch.cat([target["labels"] for target in targets])[index]
    return Matches(images, locations, boxes, labels)


def match_anchors(overlap: Tensor, background: float, foreground: float, *, low_quality: bool) -> Tensor:
    """Match by IoU (Faster R-CNN, Sec. 3.1.2).

    An anchor takes the box it overlaps most, the first of equal ones, if their IoU reaches `foreground`;
    below `background` it is background; between, it is ignored. With `low_quality` the anchors that
    overlap some box most of all anchors (ties included) are positive too, each for its own best box; a box
    that overlaps no anchor gets none.

    Args:
        overlap: (G, A) IoU of boxes and anchors; G may be 0.
        background: IoU below which an anchor is background.
        foreground: IoU from which it is positive.
        low_quality: whether the best anchors of every box are positive at any IoU.

    Returns:
        (A,) box index, `BACKGROUND` or `IGNORED`.
    """
    if overlap.shape[0] == 0:
        return torch.full((overlap.shape[1],), BACKGROUND, device=overlap.device)
    best, index = overlap.max(dim=0)
    matched = torch.where(best < foreground, IGNORED, index)
    matched = torch.where(best < background, BACKGROUND, matched)
    if low_quality:
        highest = overlap.amax(dim=1, keepdim=True)
        best_of_a_box = ((overlap == highest) & (highest > 0)).any(dim=0)
        matched = torch.where(best_of_a_box, index, matched)
    return matched
