"""Normalisation layers of the blocks inside G, and the rule that fits GroupNorm to any number of channels."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ifpn.errors import UserError

Norm = Literal["none", "gn", "bn"]

CHANNELS_PER_GROUP = 8  # 256 channels in 32 groups, the GroupNorm paper's default


def norm_groups(channels: int, at_most: int = 32) -> int:
    """GroupNorm groups: the largest divisor of `channels` not above `min(at_most, channels / 8)`.

    256 channels give 32 groups, 64 give 8, 16 give 2, and fewer than 16 give 1. A narrow net so keeps the 8
    channels per group of the 256-channel one: with only 2 values in a group (a 1x1 level) GroupNorm is a sign
    function, and the iteration around it can only cycle.
    """
    limit = max(1, min(at_most, channels // CHANNELS_PER_GROUP))
    return max(groups for groups in range(1, limit + 1) if channels % groups == 0)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with affine parameters and `norm_groups` groups."""
    return nn.GroupNorm(norm_groups(channels), channels)


def make_norm(norm: Norm, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> nn.Module:
    """`"none"` (identity), `"gn"` (`group_norm`) or `"bn"` (BatchNorm, `eps`, `momentum`).

    Raises:
        UserError: for any other name.
    """
    match norm:
        case "none":
            return nn.Identity()
        case "gn":
            return group_norm(channels)
        case "bn":
            return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)
        case _:
            raise UserError(f"norm={norm}: must be 'none', 'gn' or 'bn'.")
