"""FCOS (Tian et al. 2019) with the settings of cvpods, the code base of the paper's authors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ifpn.detectors.anchors import AnchorGrid, Anchors
from ifpn.detectors.body import BackboneWithNeck
from ifpn.detectors.boxes import LTRBCoder, areas
from ifpn.detectors.centerness import centerness_losses
from ifpn.detectors.contract import Target
from ifpn.detectors.dense import DenseDetector
from ifpn.detectors.heads import PointHead, Prediction
from ifpn.detectors.matching import BACKGROUND
from ifpn.detectors.postprocess import Postprocess
from ifpn.errors import UserError


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
            f"size_limits {list(size_limits)} must have one bound between each two of the {num_levels} levels, rising"
        )


class FCOSCriterion(nn.Module):
    """Assignment by level and centre, then focal, centerness-weighted GIoU and centerness loss.

    Args:
        size_limits: upper bounds in px of the longest distance for all levels but the last.
        centre_radius: radius of centre sampling in strides, None for none.
        alpha, gamma: of the focal loss.
        box_weight: factor of the GIoU loss.
    """

    def __init__(
        self,
        *,
        size_limits: Sequence[float],
        centre_radius: float | None,
        alpha: float,
        gamma: float,
        box_weight: float,
    ) -> None:
        super().__init__()
        self.size_limits = tuple(size_limits)
        self.centre_radius = centre_radius
        self.alpha, self.gamma, self.box_weight = alpha, gamma, box_weight

    def forward(self, prediction: Prediction, anchors: Anchors, targets: Sequence[Target]) -> dict[str, Tensor]:
        """`loss_cls`, `loss_box_reg`, `loss_centerness`; box codes are distances in pixels."""
        matched = [assign_fcos(anchors, t["boxes"], self.size_limits, self.centre_radius) for t in targets]
        return centerness_losses(
            prediction,
            anchors,
            targets,
            torch.stack(matched),
            coding=LTRBCoder(),
            alpha=self.alpha,
            gamma=self.gamma,
            box_weight=self.box_weight,
        )


class FCOS(DenseDetector):
    """Args: see conf/detector/fcos.yaml, where every number stands with its source."""

    def __init__(
        self,
        body: BackboneWithNeck,
        num_classes: int,
        *,
        transform: GeneralizedRCNNTransform,
        num_convs: int,
        prior: float,
        deformable: bool,
        size_limits: Sequence[float],
        centre_radius: float | None,
        alpha: float,
        gamma: float,
        box_weight: float,
        score_threshold: float,
        top_k: int,
        nms_threshold: float,
        max_detections: int,
    ) -> None:
        check_limits(size_limits, len(body.strides))
        super().__init__(
            body,
            num_classes,
            head=PointHead(
                body.out_channels,
                num_classes,
                body.strides,
                num_convs=num_convs,
                prior=prior,
                box_bias=0.0,
                code="distance",
                deformable=deformable,
            ),
            grid=AnchorGrid(body.strides),
            coding=LTRBCoder(),
            criterion=FCOSCriterion(
                size_limits=size_limits,
                centre_radius=centre_radius,
                alpha=alpha,
                gamma=gamma,
                box_weight=box_weight,
            ),
            postprocess=Postprocess("sqrt_quality", score_threshold, top_k, nms_threshold, max_detections),
            transform=transform,
        )
