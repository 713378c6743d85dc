"""Small maps with known Jacobians, for the solver tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

F64 = torch.float64


def matrix(size: int, rho: float, seed: int = 0) -> Tensor:
    """A random float64 matrix (size, size) of spectral radius rho."""
    w = torch.randn(size, size, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return w * (rho / torch.linalg.eigvals(w).abs().max())


def inputs(batch: int, size: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, size, dtype=F64, generator=torch.Generator().manual_seed(seed))


def tanh_map(w: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.tanh(z @ w.T + x)


def linear_map(w: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: z @ w.T + x


class Counted:
    """Counts the evaluations of f, those under autograd apart, and remembers the arguments' dtypes."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f = f
        self.plain = self.graded = 0
        self.seen: list[torch.dtype] = []

    def __call__(self, z: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.graded += 1
        else:
            self.plain += 1
        out = self.f(z)
        self.seen.append(out.dtype)
        return out


class ConvBlock(nn.Module):
    """A convolutional map on (B, channels, h, w): what a pyramid's level looks like."""

    def __init__(self, channels: int = 8, gain: float = 1.0) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.outer.weight.mul_(gain)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.outer(torch.relu(self.inner(z)))
        return out
