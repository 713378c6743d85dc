"""Start a solve from a state that is known, per image, where it is better than P^0.

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


def relative_residual(value: Tensor, state: Tensor) -> Tensor:
    """|f(z) - z| / |f(z)| of values f(z) and states z, (N, D) both: (N,). NaN where both are zero."""
    residual: Tensor = (value - state).norm(dim=1) / value.norm(dim=1)
    return residual


@torch.no_grad()
def warm_start(
    f: FlatStep, known: Tensor, first: Callable[[], Tensor], limit: float = 1.0
) -> tuple[KnownFirst, Tensor, Tensor]:
    """Choose the first state of every image: the known one, or P^0 where its residual is above that of P^0.

    A known state above it belongs to another scene. The residual of zero, |f(0) - 0| / |f(0)|, is 1.

    Args:
        f: the right-hand side.
        known: (N, D) states.
        first: gives P^0, (N, D).
        limit: the residual of P^0.

    Returns:
        f, that costs no evaluation at the state chosen; the state (N, D); and (N,) bool, true where it is P^0.
    """
    value = f(known)
    cold = ~((value - known).norm(dim=1) <= limit * value.norm(dim=1))  # NaN is cold
    if bool(cold.any()):
        known = torch.where(cold[:, None], first(), known)
        value = torch.where(cold[:, None], f(known), value)
    return KnownFirst(f, value), known, cold
