"""The solver's state: a whole pyramid as one matrix (N, D), and its levels as views of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ifpn.necks.implicit import EquilibriumNeck


@dataclass(frozen=True)
class PyramidLayout:
    """Where each level lies in the flat state.

    Args:
        shapes: (C, H_l, W_l) per level, fine to coarse; D = sum of C * H_l * W_l.
    """

    shapes: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, levels: list[Tensor]) -> PyramidLayout:
        """The layout of levels (N, C, H_l, W_l)."""
        return cls(tuple((int(x.shape[1]), int(x.shape[2]), int(x.shape[3])) for x in levels))

    @property
    def sizes(self) -> list[int]:
        """Number of values of each level of one image."""
        return [c * h * w for c, h, w in self.shapes]

    def zeros(self, like: Tensor) -> Tensor:
        """P^0 = 0 for the batch and device of `like`: (N, D), fp32 (or fp64 if `like` is).

        The state stays fp32 under autocast, and for a network in half precision: the solver takes differences of
        nearly equal states.
        """
        return like.new_zeros((like.shape[0], sum(self.sizes)), dtype=self.state_dtype(like))

    def state_dtype(self, like: Tensor) -> torch.dtype:
        """The precision of the state of a pyramid of `like`: see `zeros`."""
        return torch.promote_types(like.dtype, torch.float32)

    def views(self, z: Tensor) -> list[Tensor]:
        """(N, D) -> levels (N, C, H_l, W_l) that share its memory."""
        # one split instead of a slice per level: its backward is one concatenation
        parts = torch.split(z, self.sizes, dim=1)
        return [part.view(z.shape[0], *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def flatten(self, levels: list[Tensor], dtype: torch.dtype) -> Tensor:
        """Levels (N, C, H_l, W_l) of any floating type -> (N, D) of `dtype`, in one pass over the data."""
        if torch.is_grad_enabled():
            return torch.cat([level.to(dtype).flatten(1) for level in levels], dim=1)
        z = levels[0].new_empty((levels[0].shape[0], sum(self.sizes)), dtype=dtype)
        for view, level in zip(self.views(z), levels, strict=True):
            view.copy_(level)
        return z


def to_network(p: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    """Levels P in the type that G computes in: that of B for a network converted by `half()`; under autocast as is."""
    dtype, device = b[0].dtype, b[0].device.type
    if dtype not in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(device):
        return p
    return [level.to(dtype) for level in p]


@dataclass(frozen=True)
class FlatStep:
    """The right-hand side of a neck's equation for given B, on flat states: (N, D) -> (N, D)."""

    neck: EquilibriumNeck
    layout: PyramidLayout
    b: list[Tensor]

    def __call__(self, p: Tensor) -> Tensor:
        """Evaluate `EquilibriumNeck.step`; the result has the type of p."""
        levels = to_network(self.layout.views(p), self.b)
        return self.layout.flatten(self.neck.step(levels, self.b), p.dtype)

    @property
    def take(self) -> Callable[[Tensor], FlatStep] | None:
        """Restrict to the images `index`, so that a solver need not compute the finished ones.

        None in training, where dropout masks and BatchNorm belong to the whole batch, and with a compiled G, which
        would be compiled for every batch size.
        """
        if self.neck.training or self.neck.compile_g:
            return None
        return lambda index: replace(self, b=[level[index] for level in self.b])
