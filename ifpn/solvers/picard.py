"""Picard iteration: the plain fixed-point step, damped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ifpn.bounds import Gt, Le, check
from ifpn.solvers.batched import keep_rows


@check
@dataclass(frozen=True)
class Picard:
    """z <- z + tau (f(z) - z). tau = 1 repeats f; tau < 1 is damped, for maps that overshoot."""

    tau: Annotated[float, Gt(0), Le(1)] = 1.0

    def start(self, z0: Tensor, max_evals: int) -> _PicardSteps:
        """Allocate for one solve from z0 (B, N)."""
        return _PicardSteps(self.tau, z0)


class _PicardSteps:
    def __init__(self, tau: float, z0: Tensor) -> None:
        self.tau = tau
        self.change = torch.empty_like(z0, memory_format=torch.contiguous_format)

    def residual_buffer(self) -> Tensor:
        return self.change

    def step(self, z: Tensor, fz: Tensor, out: Tensor) -> None:
        torch.add(z, self.change, alpha=self.tau, out=out)

    def take(self, index: Tensor) -> None:
        self.change = keep_rows(self.change, index)
