"""Stacks of cross-scale blocks with own weights (paper Eq. 1): EfficientDet's and NAS-FPN's necks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ifpn.csc import PyramidConv
from ifpn.errors import UserError
from ifpn.necks.neck import ExtraLevelsFrom, Neck, check_pyramid_sizes
from ifpn.necks.projection import NormLayer, Projection

CrossScale = Callable[[int, int], nn.Module]


class StackedFPN(Neck):
    """P = f_T(... f_1(B)), T blocks with own weights; B enters once.

    With BiFPN layers it is EfficientDet's neck (3 layers in D0 to 7 in D4 and D5), with NAS-FPN cells
    NAS-FPN's (7).

    Args:
        in_channels_list: as `torchvision.ops.FeaturePyramidNetwork`, like the next three.
        out_channels: C of every output level.
        extra_blocks: run on the finished pyramid.
        norm_layer: called with C, follows the 1x1 convolutions that make B; None for none.
        csc: makes one block, called `csc(channels, num_levels)`.
        repeats: T >= 1.
        extra_levels: B6 from the projected C5 (`"p5"`), from C5 (`"c5"`), or neither B6 nor B7
            (`"none"`).

    Raises:
        UserError: `repeats` below one, or a block without parameters (the stack would be B).
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: int,
        extra_blocks: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        *,
        csc: CrossScale = PyramidConv,
        repeats: int = 7,
        extra_levels: ExtraLevelsFrom = "p5",
    ) -> None:
        super().__init__(in_channels_list, out_channels, extra_blocks, extra_levels)
        if repeats < 1:
            raise UserError(f"repeats={repeats}: must be 1 or more. neck=none is the neck without blocks.")
        self.projection = Projection(in_channels_list, out_channels, self.extra_levels, norm_layer)
        self.blocks = nn.ModuleList(csc(out_channels, self.num_levels) for _ in range(repeats))
        if not any(True for _ in self.blocks.parameters()):
            raise UserError("csc=none: must be another one with neck=stack, which stacks nothing. Use neck=none.")

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """See `Neck.pyramid`."""
        levels: list[Tensor] = self.projection(features)
        check_pyramid_sizes(levels)
        for block in self.blocks:
            levels = block(levels)
        return levels
