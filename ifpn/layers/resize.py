"""Changing a level's size without parameters. Every size is a target size, never a factor: 25 -> 13 -> 7."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def size_of(x: Tensor) -> tuple[int, int]:
    """(H, W) of a tensor (..., H, W)."""
    return x.shape[-2], x.shape[-1]  # not int(): an export for any size records these as variables


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour up-sampling of (N, C, h, w) to `size`; the same tensor if it has that size."""
    return x if size_of(x) == size else F.interpolate(x, size=size, mode="nearest")


def max_pool_to(x: Tensor, size: tuple[int, int], kernel: tuple[int, int], fill: float) -> Tensor:
    """Max-pooling of (N, C, h, w) to `size`, stride = kernel, padded with `fill` to `size * kernel`, no less than h, w.

    The padding is shared between both sides, the odd row or column at the end. `fill=-inf` leaves the
    border out of the maximum (TensorFlow's SAME).
    """
    (h, w), (rows, columns) = size_of(x), size
    down, right = rows * kernel[0] - h, columns * kernel[1] - w
    recorded = torch._C._get_tracing_state() is not None
    if recorded or down or right:  # a graph that is recorded pads at every size, by what that size needs
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2), value=fill)
    return F.max_pool2d(x, kernel_size=kernel, stride=kernel)
