"""Initialisation of the cross-scale convolutions, and the checks of their two sizes."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ifpn.errors import UserError


def csc_std(channels: int) -> float:
    """Standard deviation 0.01 * sqrt(256 / channels) of the weights of a cross-scale convolution.

    0.01 at 256 channels is SEPC's own value. Narrower nets keep the gain of the convolution, not the number:
    the sum over the fan-in has variance `9 * channels * std**2`. A gain near or above one (Xavier, He)
    leaves P = G(P + B) without an attracting fixed point at the start of training.
    """
    return 0.01 * math.sqrt(256 / channels)


def init_csc_conv(conv: nn.Conv2d) -> None:
    """Weights N(0, `csc_std(in_channels)`), bias 0, in place."""
    nn.init.normal_(conv.weight, std=csc_std(conv.in_channels))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def check_sizes(name: str, channels: int, num_levels: int, fewest_levels: int = 1) -> None:
    """Raise UserError unless `channels >= 1` and `num_levels >= fewest_levels`."""
    if channels < 1:
        raise UserError(f"{name}: channels={channels}: must be 1 or more.")
    if num_levels < fewest_levels:
        raise UserError(f"{name}: num_levels={num_levels}: must be {fewest_levels} or more.")


def check_levels(name: str, levels: list[Tensor], num_levels: int) -> None:
    """Raise ValueError if a block built for `num_levels` levels is called with another number."""
    if len(levels) != num_levels:
        raise ValueError(f"{name} was built for {num_levels} levels, got {len(levels)}")
