"""ATSS (Zhang et al. 2020): positives chosen by statistics of the candidates' overlaps."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from ifpn.bounds import Ge, Le, Probability, Weight, check
from ifpn.detectors.anchors import Anchors
from ifpn.detectors.boxes import BoxCoder, iou, side_distances
from ifpn.detectors.centerness import centerness_losses
from ifpn.detectors.contract import Target
from ifpn.detectors.heads import Prediction
from ifpn.detectors.matching import BACKGROUND


def assign_atss(anchors: Anchors, boxes: Tensor, num_candidates: int) -> Tensor:
    """Which box each location learns (ATSS, Algorithm 1).

    A box's candidates are, on every level, the locations closest to its centre. Positive are those whose
    anchor's IoU reaches the mean plus the (unbiased) standard deviation over all candidates of the box and
    whose point lies strictly inside. A location claimed by several boxes takes the one of highest IoU, the
    first of equal ones.

    Among locations at exactly the same distance from the centre, those that `torch.topk` returns are
    candidates: always the same on the CPU, and independent of the other boxes, but not symmetric under
    flips of the image.

    Args:
        anchors: one square anchor per cell.
        boxes: (G, 4) xyxy; G may be 0.
        num_candidates: per level; a level with fewer cells gives all it has.

    Returns:
        (A,) box index, or -1 for background.
    """
    if len(boxes) == 0:
        return torch.full_like(anchors.strides, BACKGROUND, dtype=torch.int64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (anchors.points[:, None] - centres).pow(2).sum(dim=-1).sqrt()  # (A, G)
    candidates, start = [], 0
    for size in anchors.level_sizes:
        level = distance[start : start + size]
        nearest = level.topk(min(num_candidates, size), dim=0, largest=False).indices
        candidates.append(nearest + start)
        start += size
    locations = torch.cat(candidates)  # (C, G)

    overlap = iou(anchors.boxes[locations], boxes)
    # the deviation of a single candidate is not defined; it then competes with itself alone
    spread = overlap.std(dim=0) if len(locations) > 1 else torch.zeros_like(overlap[0])
    inside = side_distances(anchors.points[locations], boxes).amin(dim=-1) > 0
    positive = inside & (overlap >= overlap.mean(dim=0) + spread)

    best_iou = torch.full_like(distance, -1.0)
    best_iou.scatter_(0, locations, torch.where(positive, overlap, -1.0))
    highest, index = best_iou.max(dim=1)
    return torch.where(highest >= 0, index, BACKGROUND)


@check
class ATSSCriterion(nn.Module):
    """Losses of ATSS.

    They are computed in two steps: 1) `assign_atss` gives each location at most one target box, by a threshold on
    the overlap that adapts to each box; 2) `centerness_losses` supervises class, box and centerness of the assigned
    locations, as in FCOS, and the class "none" everywhere else.

    Args:
        num_candidates: locations per level and box that may become positive.
        coding: of the predicted boxes.
        alpha: weight of positive locations in the focal loss.
        gamma: exponent of the focal loss.
        box_weight: factor of the GIoU loss.
        count_empty: whether an image without positives adds one to the number of positives.
    """

    def __init__(
        self,
        *,
        num_candidates: Annotated[int, Ge(1), Le(1000)],
        coding: BoxCoder,
        alpha: Probability,
        gamma: Annotated[float, Ge(0), Le(100)],
        box_weight: Weight,
        count_empty: bool,
    ) -> None:
        super().__init__()
        self.num_candidates = num_candidates
        self.coding = coding
        self.alpha, self.gamma, self.box_weight = alpha, gamma, box_weight
        self.count_empty = count_empty

    def forward(self, prediction: Prediction, anchors: Anchors, targets: Sequence[Target]) -> dict[str, Tensor]:
        """`loss_cls`, `loss_box_reg`, `loss_centerness`."""
        matched = [assign_atss(anchors, target["boxes"], self.num_candidates) for target in targets]
        return centerness_losses(
            prediction,
            anchors,
            targets,
            torch.stack(matched),
            coding=self.coding,
            alpha=self.alpha,
            gamma=self.gamma,
            box_weight=self.box_weight,
            count_empty=self.count_empty,
        )
