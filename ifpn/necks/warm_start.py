"""Start a solve from a state that is known, per image, where it is better than zero.

DEQ-Flow (Bai et al. 2022) and StreamDEQ (Ertenli et al. 2022) start each frame of a video from the last one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ifpn.necks.pyramid_layout import FlatStep


class KnownFirst:
    """f with its value at the solver's first state at hand, so that the first evaluation computes nothing."""

    def __init__(self, f: FlatStep, value: Tensor) -> None:
        self.f = f
        self.value: Tensor | None = value

    def __call__(self, z: Tensor) -> Tensor:
        """Give the value known, at the first call; f(z) from then on."""
        value, self.value = self.value, None
        return self.f(z) if value is None else value

    @property
    def take(self) -> Callable[[Tensor], FlatStep] | None:
        """That of f: nobody leaves before the first evaluation."""
        return self.f.take


@torch.no_grad()
def warm_start(f: FlatStep, known: Tensor) -> tuple[KnownFirst, Tensor, Tensor]:
    """Choose the first state of every image: the known one, or zero where its residual is above that of zero.

    The residual of zero, |f(0) - 0| / |f(0)|, is 1. A known state above it belongs to another scene.

    Args:
        f: the right-hand side.
        known: (N, D) states.

    Returns:
        f, that costs no evaluation at the state chosen; the state (N, D); and (N,) bool, true where it is zero.
    """
    value = f(known)
    cold = ~((value - known).norm(dim=1) <= value.norm(dim=1))  # NaN is cold
    if bool(cold.any()):
        known = torch.where(cold[:, None], 0.0, known)
        value = torch.where(cold[:, None], f(known), value)
    return KnownFirst(f, value), known, cold
