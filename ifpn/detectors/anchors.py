"""Where predictions sit: points and anchors on grids of fixed stride."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ifpn.bounds import Gt, Le, Length, check


@dataclass(frozen=True)
class Anchors:
    """The A prediction locations of an image, levels fine to coarse, each level row by row.

    Attributes:
        points: (A, 2) centres (x, y) in pixels of the network's input.
        sizes: (A, 2) width and height of the anchor at each location, in pixels.
        strides: (A,) stride of the level each location belongs to.
        level_sizes: number of locations per level.
    """

    points: Tensor
    sizes: Tensor
    strides: Tensor
    level_sizes: tuple[int, ...]

    @property
    def boxes(self) -> Tensor:
        """(A, 4) the anchors as xyxy."""
        half = self.sizes / 2
        return torch.cat([self.points - half, self.points + half], dim=1)


@check
@dataclass(frozen=True)
class AnchorGrid:
    """Anchors for feature maps: cell (x, y) of a level of stride s is centred at (x s, y s), offset 0.

    A cell holds `len(scales) * len(ratios)` anchors, scale by scale, of side `scale * s` and aspect
    height / width = ratio at constant area. Nothing is rounded. Detectors without anchors use one anchor
    per cell.

    Attributes:
        strides: pixels per cell of each level.
        scales: anchor sides in units of the stride.
        ratios: height / width.

    Raises:
        UserError: no scale or ratio, or one that is not positive.
    """

    strides: tuple[int, ...]
    scales: Annotated[Sequence[Annotated[float, Gt(0), Le(1000)]], Length(1)]
    ratios: Annotated[Sequence[Annotated[float, Gt(0), Le(1000)]], Length(1)]

    def __post_init__(self) -> None:
        for name, values in (("scales", self.scales), ("ratios", self.ratios)):
            object.__setattr__(self, name, tuple(values))  # frozen, and lists come from YAML

    @property
    def per_cell(self) -> int:
        """Anchors per cell."""
        return len(self.scales) * len(self.ratios)

    def for_features(self, features: Sequence[Tensor]) -> Anchors:
        """Anchors of maps (N, C, H_l, W_l), one per stride, on the maps' device."""
        return self.build([(f.shape[-2], f.shape[-1]) for f in features], features[0].device)

    def build(self, sizes: Sequence[tuple[int, int]], device: torch.device | str = "cpu") -> Anchors:
        """Anchors of maps with the given (rows, columns).

        Raises:
            ValueError: not as many maps as strides.
        """
        if len(sizes) != len(self.strides):
            raise ValueError(f"{len(sizes)} feature maps for {len(self.strides)} strides {self.strides}")
        cell = torch.tensor(self._cell(), dtype=torch.float32, device=device)  # (per_cell, 2), in strides
        points, shapes, strides = [], [], []
        for (rows, columns), stride in zip(sizes, self.strides, strict=True):
            y = torch.arange(rows, dtype=torch.float32, device=device) * stride
            x = torch.arange(columns, dtype=torch.float32, device=device) * stride
            centres = torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=1)
            points.append(centres.repeat_interleave(self.per_cell, dim=0))
            shapes.append((cell * stride).repeat(rows * columns, 1))
            strides.append(torch.full((len(points[-1]),), float(stride), device=device))
        return Anchors(torch.cat(points), torch.cat(shapes), torch.cat(strides), tuple(len(level) for level in points))

    def _cell(self) -> list[tuple[float, float]]:
        """(width, height) in strides of the anchors of one cell."""
        return [(s / math.sqrt(r), s * math.sqrt(r)) for s in self.scales for r in self.ratios]
