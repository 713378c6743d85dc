"""Path aggregation (Liu et al. 2018, PANet): an FPN and a second, bottom-up path."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ifpn.bounds import Width, check
from ifpn.necks.fpn import FPN
from ifpn.necks.neck import ExtraLevelsFrom, Neck, check_pyramid_sizes
from ifpn.necks.projection import ExtraLevels, NormLayer, init_xavier


@check
class PAFPN(Neck):
    """N_1 = P_1; N_l = P_l + conv3x3s2(N_l-1); outputs P_1 and conv3x3(N_l), without activations.

    Args:
        in_channels_list: as `torchvision.ops.FeaturePyramidNetwork`, like the next three.
        out_channels: C of every output level.
        extra_blocks: run on the finished pyramid.
        norm_layer: called with C, follows the convolutions of the FPN; None for none.
        extra_levels: P6 from P5 (`"p5"`), from C5 (`"c5"`), or neither P6 nor P7 (`"none"`).
        bottom_up: `"backbone"`: the second path joins the backbone's levels, P6 and P7 follow its last
            output (as MMDetection); `"all"`: P6 and P7 belong to the FPN and the second path joins all
            levels.

    Raises:
        UserError: an unknown `bottom_up`.
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: Width,
        extra_blocks: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        *,
        extra_levels: ExtraLevelsFrom = "p5",
        bottom_up: Literal["backbone", "all"] = "backbone",
    ) -> None:
        super().__init__(in_channels_list, out_channels, extra_blocks, extra_levels)
        extra_first = bottom_up == "all"
        fpn_extra: ExtraLevelsFrom = self.extra_levels if extra_first else "none"
        self.fpn = FPN(in_channels_list, out_channels, norm_layer=norm_layer, extra_levels=fpn_extra)
        self.extra = None if extra_first else ExtraLevels.of(self.extra_levels, in_channels_list[-1], out_channels)
        joined = len(in_channels_list) + (2 if fpn_extra != "none" else 0)
        self.down = nn.ModuleList(_conv(out_channels, stride=2) for _ in range(joined - 1))
        self.output = nn.ModuleList(_conv(out_channels, stride=1) for _ in range(joined - 1))

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """See `Neck.pyramid`."""
        levels = self.fpn.pyramid(features)
        check_pyramid_sizes(levels)
        outputs, carried = [levels[0]], levels[0]
        for level, down, output in zip(levels[1:], self.down, self.output, strict=True):
            carried = level + down(carried)
            outputs.append(output(carried))
        if self.extra is not None:
            outputs += self.extra(p5=outputs[-1], c5=features[-1])
        return outputs


def _conv(channels: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, kernel_size=3, stride=stride, padding=1)
    init_xavier(conv)
    return conv
