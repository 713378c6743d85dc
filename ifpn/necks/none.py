"""No pyramid network: the head works on B (paper Table 3 "no FPN", Table 2 with 0 iterations)."""

from __future__ import annotations

from torch import Tensor, nn

from ifpn.bounds import Width, check
from ifpn.necks.neck import ExtraLevelsFrom, Neck
from ifpn.necks.projection import NormLayer, Projection


@check
class NoFPN(Neck):
    """P = B: 1x1 convolutions on the backbone levels, P6 and P7 by strided ones, nothing flows down.

    Args:
        in_channels_list: as `torchvision.ops.FeaturePyramidNetwork`, like the next three.
        out_channels: C of every output level.
        extra_blocks: run on the finished pyramid.
        norm_layer: called with C, follows the 1x1 convolutions that make B; None for none.
        extra_levels: P6 from the projected C5 (`"p5"`), from C5 (`"c5"`), or neither P6 nor P7
            (`"none"`).
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: Width,
        extra_blocks: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        *,
        extra_levels: ExtraLevelsFrom = "p5",
    ) -> None:
        super().__init__(in_channels_list, out_channels, extra_blocks, extra_levels)
        self.projection = Projection(in_channels_list, out_channels, self.extra_levels, norm_layer)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """See `Neck.pyramid`."""
        levels: list[Tensor] = self.projection(features)
        return levels
