"""A linear G of which everything is known, and random levels."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Turn(nn.Module):
    """Multiplies pairs of channels by the complex number radius · e^(1.2 i), for every level: a linear G."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.number = nn.Parameter(radius * torch.tensor([math.cos(1.2), math.sin(1.2)]))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        out = []
        for level in levels:
            a, b = level.chunk(2, dim=1)
            c, s = self.number
            out.append(torch.cat([c * a - s * b, s * a + c * b], dim=1))
        return out


def features(
    channels: Sequence[int] = (6, 8),
    sizes: Sequence[tuple[int, int]] = ((8, 8), (4, 4)),
    *,
    batch: int = 2,
    seed: int = 3,
) -> OrderedDict[str, Tensor]:
    """Random levels c3, c4, ... of the given channels and (rows, columns)."""
    generator = torch.Generator().manual_seed(seed)
    levels = enumerate(zip(channels, sizes, strict=True))
    return OrderedDict((f"c{i + 3}", torch.randn(batch, c, *size, generator=generator)) for i, (c, size) in levels)
