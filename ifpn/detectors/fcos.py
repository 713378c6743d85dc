"""FCOS (Tian et al. 2019) with the settings of cvpods, the code base of the paper's authors."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from ifpn.bounds import Ge, Gt, Le, Probability, Weight, check
from ifpn.detectors.anchors import Anchors
from ifpn.detectors.boxes import BoxCoder, LTRBCoder, areas
from ifpn.detectors.centerness import centerness_losses
from ifpn.detectors.contract import Target
from ifpn.detectors.heads import Prediction
from ifpn.detectors.matching import BACKGROUND
from ifpn.errors import UserError

DISTANCES = LTRBCoder()


def assign_fcos(anchors: Anchors, boxes: Tensor, size_limits: Sequence[float], centre_radius: float | None) -> Tensor:
    """Which box each point learns.

    A point is positive for a box when it lies strictly inside (of the box's part within `centre_radius`
    strides of the box's centre, if given) and the largest distance to the box's sides lies in its level's
    range, both ends included. Of several boxes it takes the smallest by area, the first of equal ones.

    Args:
        anchors: points of the L levels.
        boxes: (G, 4) xyxy; G may be 0.
        size_limits: L - 1 rising bounds in px: level l is for largest distances from limit l-1 to limit l.
        centre_radius: in strides; None for the whole box.

    Returns:
        (A,) box index, or -1 for background.

    Raises:
        UserError: number of limits not L - 1.
    """
    check_limits(size_limits, len(anchors.level_sizes))
    if len(boxes) == 0:
        return torch.full_like(anchors.strides, BACKGROUND, dtype=torch.int64)
    limits = boxes.new_tensor([-1.0, *size_limits, math.inf])
    counts = torch.tensor(anchors.level_sizes, device=boxes.device)
    size = len(anchors.points)
    lower = limits[:-1].repeat_interleave(counts, output_size=size)[:, None]
    upper = limits[1:].repeat_interleave(counts, output_size=size)[:, None]

    points = anchors.points[:, None]  # (A, 1, 2)
    low, high = boxes[:, :2], boxes[:, 2:]
    longest = torch.maximum(points - low, high - points).amax(dim=-1)  # (A, G)
    if centre_radius is not None:
        centre = (low + high) / 2
        reach = (anchors.strides * centre_radius)[:, None, None]
        low, high = torch.maximum(centre - reach, low), torch.minimum(centre + reach, high)
    inside = ((points > low) & (points < high)).all(dim=-1)
    valid = inside & (longest >= lower) & (longest <= upper)
    smallest, index = torch.where(valid, areas(boxes), math.inf).min(dim=1)
    return torch.where(smallest.isfinite(), index, BACKGROUND)


def check_limits(size_limits: Sequence[float], num_levels: int) -> None:
    """Raises UserError unless there are `num_levels - 1` rising limits."""
    if len(size_limits) != num_levels - 1 or list(size_limits) != sorted(set(size_limits)):
        raise UserError(
            f"size_limits={list(size_limits)}: must be {num_levels - 1} rising numbers, one between each two of the "
            f"{num_levels} levels"
        )


@check
class FCOSCriterion(nn.Module):
    """Losses of FCOS.

    They are computed in two steps: 1) `assign_fcos` gives each location at most one target box, chosen by the box's
    size and centre; 2) `centerness_losses` supervises class, box and centerness of the assigned locations, and the
    class "none" everywhere else.

    Args:
        size_limits: upper bounds in px of the longest distance for all levels but the last.
        centre_radius: radius of centre sampling in strides, None for none.
        alpha: weight of positive locations in the focal loss.
        gamma: exponent of the focal loss.
        box_weight: factor of the GIoU loss.
        coding: of the predicted boxes.
        num_levels: if given, `size_limits` must fit it.

    Raises:
        UserError: limits that do not rise, or are not one fewer than the levels.
    """

    def __init__(
        self,
        *,
        size_limits: Sequence[Annotated[float, Gt(0), Le(100_000)]],
        centre_radius: Annotated[float | None, Gt(0), Le(1000)],
        alpha: Probability,
        gamma: Annotated[float, Ge(0), Le(100)],
        box_weight: Weight,
        coding: BoxCoder = DISTANCES,
        num_levels: int | None = None,
    ) -> None:
        super().__init__()
        if num_levels is not None:
            check_limits(size_limits, num_levels)
        self.coding = coding
        self.size_limits = tuple(size_limits)
        self.centre_radius = centre_radius
        self.alpha, self.gamma, self.box_weight = alpha, gamma, box_weight

    def forward(self, prediction: Prediction, anchors: Anchors, targets: Sequence[Target]) -> dict[str, Tensor]:
        """`loss_cls`, `loss_box_reg`, `loss_centerness`."""
        matched = [assign_fcos(anchors, t["boxes"], self.size_limits, self.centre_radius) for t in targets]
        return centerness_losses(
            prediction,
            anchors,
            targets,
            torch.stack(matched),
            coding=self.coding,
            alpha=self.alpha,
            gamma=self.gamma,
            box_weight=self.box_weight,
        )
