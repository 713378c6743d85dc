"""What every neck is: backbone levels in, pyramid levels out, called like torchvision's FPN."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from ifpn.errors import UserError
from ifpn.solvers import Stats

Levels = list[Tensor]
"""A pyramid: (N, C, H_l, W_l) per level, fine to coarse."""

ExtraLevelsFrom = Literal["p5", "c5", "none"]
EXTRA_NAMES = ("p6", "p7")


class Neck(nn.Module, ABC):
    """Base of all necks. A subclass gives `pyramid`.

    Args:
        in_channels_list: channels of the input levels, fine to coarse.
        out_channels: C of every output level.
        extra_blocks: a torchvision `ExtraFPNBlock` run on the finished pyramid, e.g. `LastLevelMaxPool`.
        extra_levels: where P6 and P7 come from; the subclass says what it means there. With `extra_blocks`
            the neck adds no P6 and P7 of its own (`"p5"` then acts as `"none"`).

    Attributes:
        auxiliary_losses: scalar losses of the last training forward, to be added to the detector's; mostly
            empty.
        stats: what the solver did in the last forward; None for explicit necks.
        num_levels: levels that `pyramid` returns, those of `extra_blocks` not counted.

    Raises:
        UserError: empty or non-positive channels, an unknown `extra_levels`, or `"c5"` with
            `extra_blocks`.
        TypeError: if `extra_blocks` is no `ExtraFPNBlock`.
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: int,
        extra_blocks: nn.Module | None,
        extra_levels: ExtraLevelsFrom,
    ) -> None:
        super().__init__()
        if not in_channels_list or min(in_channels_list) < 1 or out_channels < 1:
            raise UserError(
                f"out_channels={out_channels}, in_channels_list={list(in_channels_list)}: must be positive, with at "
                "least one input level."
            )
        if extra_levels not in get_args(ExtraLevelsFrom):
            raise UserError(f"extra_levels={extra_levels}: must be 'p5', 'c5' or 'none'.")
        if extra_blocks is not None and not isinstance(extra_blocks, ExtraFPNBlock):
            raise TypeError(f"extra_blocks must be a torchvision ExtraFPNBlock, got {type(extra_blocks).__name__}")
        if extra_blocks is not None and extra_levels == "c5":
            raise UserError("extra_levels=c5: must be left out with extra_blocks, which adds the coarse levels.")
        self.in_channels_list = list(in_channels_list)
        self.out_channels = out_channels
        self.extra_blocks = extra_blocks
        self.extra_levels: ExtraLevelsFrom = "none" if extra_blocks is not None else extra_levels
        self.num_levels = len(in_channels_list) + (0 if self.extra_levels == "none" else len(EXTRA_NAMES))
        self.auxiliary_losses: dict[str, Tensor] = {}
        self.stats: Stats | None = None

    @abstractmethod
    def pyramid(self, features: Levels) -> Levels:
        """Backbone levels (N, C_l, H_l, W_l) to levels (N, C, H_l, W_l), P6 and P7 included."""

    def forward(self, x: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """Backbone levels by name, fine to coarse, to pyramid levels by name.

        Args:
            x: tensors (N, C_l, H_l, W_l); taken in order, whatever their names.

        Returns:
            Tensors (N, C, H_l, W_l) under the input's names, then `"p6"`, `"p7"` or the names of
            `extra_blocks`.

        Raises:
            ValueError: if the number of levels or their channels are not those of the constructor.
        """
        features = list(x.values())
        channels = [int(feature.shape[1]) for feature in features]
        if channels != self.in_channels_list:
            raise ValueError(
                f"{type(self).__name__} was built for levels of {self.in_channels_list} channels, "
                f"got {dict(zip(x, channels, strict=True))}"
            )
        self.auxiliary_losses = {}
        levels = self.pyramid(features)
        names = [*x, *EXTRA_NAMES[: len(levels) - len(features)]]
        if self.extra_blocks is not None:
            levels, names = self.extra_blocks(levels, features, names)
        return OrderedDict(zip(names, levels, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the traces of the last forward: their graph can neither be copied nor saved."""
        return {**self.__dict__, "auxiliary_losses": {}, "stats": None}


def check_pyramid_sizes(levels: Levels) -> None:
    """Raise ValueError unless every level has ceil(size / 2) rows and columns of the one before.

    That is what strided convolutions between the levels give, and what a backbone with strides 8, 16, 32 and
    padding gives for any image size.
    """
    sizes = [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]
    for (h, w), (h2, w2) in itertools.pairwise(sizes):
        if (h2, w2) != ((h + 1) // 2, (w + 1) // 2):
            raise ValueError(
                f"each level must have half the rows and columns of the one before, rounded up; got {sizes}. "
                "Pad the images to a multiple of the largest stride of the backbone, usually 32"
            )
