"""Box geometry: overlaps, and the two ways a network codes a box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from torch import Tensor

from ifpn.bounds import Gt, Le, Length, check

EPS = torch.finfo(torch.float32).eps  # smallest area that is divided by, as the GIoU of cvpods
MAX_LOG_RATIO = math.log(1000 / 16)  # a box may be 62.5 times its anchor: keeps exp finite (Faster R-CNN's usual bound)


class BoxCoder(Protocol):
    """What the four numbers that a head puts out at a location mean: raw output -> code <-> box."""

    def activate(self, output: Tensor, stride: float) -> Tensor:
        """Raw outputs (..., 4) of a level of the given stride -> code (..., 4)."""
        ...

    def encode(self, boxes: Tensor, points: Tensor, sizes: Tensor) -> Tensor:
        """Boxes (..., 4) xyxy, points (..., 2), sizes (..., 2) -> code (..., 4)."""
        ...

    def decode(self, code: Tensor, points: Tensor, sizes: Tensor) -> Tensor:
        """Code (..., 4), points (..., 2), sizes (..., 2) -> boxes (..., 4) xyxy."""
        ...


@dataclass(frozen=True)
class LTRBCoder:
    """Left, top, right and bottom distance from the point to the box's sides, in pixels (FCOS)."""

    def activate(self, output: Tensor, stride: float) -> Tensor:
        """Raw outputs in strides -> distances in pixels, never negative: ReLU(output) * stride."""
        return output.relu() * stride

    def encode(self, boxes: Tensor, points: Tensor, sizes: Tensor) -> Tensor:
        """Boxes (..., 4) xyxy, points (..., 2) -> distances (..., 4); sizes are not used."""
        return side_distances(points, boxes)

    def decode(self, code: Tensor, points: Tensor, sizes: Tensor) -> Tensor:
        """Code (..., 4) in px, points (..., 2) -> boxes (..., 4); sizes are not used."""
        return torch.cat([points - code[..., :2], points + code[..., 2:]], dim=-1)


@check
@dataclass(frozen=True)
class DeltaCoder:
    """Offsets from an anchor: `w_xy * shift / anchor size` and `w_wh * ln(box size / anchor size)`.

    Attributes:
        weights: (w_x, w_y, w_w, w_h), the inverse of the standard deviations that some codes list instead.

    Raises:
        UserError: not four weights.
    """

    weights: Annotated[Sequence[Annotated[float, Gt(0), Le(10_000)]], Length(4, 4)]

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(self.weights))  # frozen, and lists come from YAML

    def activate(self, output: Tensor, stride: float) -> Tensor:
        """The raw outputs are the code, whatever the stride."""
        return output

    def encode(self, boxes: Tensor, points: Tensor, sizes: Tensor) -> Tensor:
        """Boxes (..., 4) xyxy of positive size -> code (..., 4)."""
        weights = boxes.new_tensor(self.weights)
        extent = boxes[..., 2:] - boxes[..., :2]
        shift = (boxes[..., :2] + extent / 2 - points) / sizes
        return torch.cat([shift, (extent / sizes).log()], dim=-1) * weights

    def decode(self, code: Tensor, points: Tensor, sizes: Tensor) -> Tensor:
        """Code (..., 4) -> boxes (..., 4); the logarithmic sizes are limited to ln(1000 / 16)."""
        code = code / code.new_tensor(self.weights)
        centre = points + code[..., :2] * sizes
        half = code[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * sizes / 2
        return torch.cat([centre - half, centre + half], dim=-1)


def side_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances (left, top, right, bottom) from points (..., 2) to the sides of boxes (..., 4), broadcast.

    All four are positive exactly when the point lies strictly inside.
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def areas(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> (...,); a box whose sides are out of order has area 0."""
    extent = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return extent[..., 0] * extent[..., 1]


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union areas of boxes a and b (..., 4), broadcast."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    intersection = areas(torch.cat([low, high], dim=-1))
    return intersection, areas(a) + areas(b) - intersection


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes a and b (..., 4) xyxy, broadcast; 0 for two empty boxes."""
    intersection, union = overlaps(a, b)
    return intersection / union.clamp(min=EPS)


def giou_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al. 2019) of boxes a and b (..., 4) xyxy, broadcast; between 0 and 2.

    Unlike torchvision's, boxes with sides out of order have area 0 (not the product of two negative
    sides), so that such a prediction is never rewarded for being large.
    """
    intersection, union = overlaps(a, b)
    hull = areas(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], dim=-1))
    return 1 - intersection / union.clamp(min=EPS) + (hull - union) / hull.clamp(min=EPS)


BoxCoding, DistanceCoding, DeltaCoding = BoxCoder, LTRBCoder, DeltaCoder  # the names of 0.1, until 0.3
