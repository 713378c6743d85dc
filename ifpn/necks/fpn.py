"""The feature pyramid network (Lin et al. 2017): torchvision's, with P6 and P7 by our rule."""

from __future__ import annotations

import functools
from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from ifpn.bounds import Rate, Width, check
from ifpn.errors import UserError
from ifpn.layers.norm import Norm, make_norm
from ifpn.layers.solve_scope import apply_weight_norm
from ifpn.necks.neck import ExtraLevelsFrom, Neck
from ifpn.necks.projection import ExtraLevels, NormLayer
from ifpn.necks.transformation import ResidualBlock


@check
class FPN(Neck):
    """1x1 lateral convolutions, top-down sum with nearest-neighbour up-sampling, 3x3 output convolutions.

    torchvision's `LastLevelP6P7` takes P6 from P5 or from C5 according to their channels; here the caller
    says.

    Args:
        in_channels_list: as `torchvision.ops.FeaturePyramidNetwork`, like the next three.
        out_channels: C of every output level.
        extra_blocks: run on the finished pyramid.
        norm_layer: called with C, follows the convolutions; None for none.
        extra_levels: P6 from the output P5 (`"p5"`: FCOS, ATSS, AutoAssign), from C5 (`"c5"`: RetinaNet),
            or neither P6 nor P7 (`"none"`: Faster R-CNN).
        norm: after the lateral and the output convolutions: `"none"` (Lin et al. 2017), `"gn"` (GroupNorm) or
            `"bn"` (BatchNorm); a shorter way to say `norm_layer`.
        residual_block: G's residual block (`ResidualBlock`), own weights per level,
            on every finished level, P6 and P7 too: i-FPN's capacity without its connection and its iteration.
        weight_norm: of the residual blocks, as `ImplicitFPN`.
        dropout: of the residual blocks, as `ImplicitFPN`.

    Raises:
        UserError: for another `norm`, or one beside `norm_layer`.
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: Width,
        extra_blocks: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        *,
        extra_levels: ExtraLevelsFrom = "p5",
        norm: Norm = "none",
        residual_block: bool = False,
        weight_norm: bool = True,
        dropout: Rate = 0.05,
    ) -> None:
        super().__init__(in_channels_list, out_channels, extra_blocks, extra_levels)
        if norm != "none":
            if norm_layer is not None:
                raise UserError(
                    f"norm={norm}: must be left out where norm_layer is given. Both name the normalisation."
                )
            norm_layer = functools.partial(make_norm, norm)
        self.fpn = FeaturePyramidNetwork(in_channels_list, out_channels, norm_layer=norm_layer)
        self.extra = ExtraLevels.of(self.extra_levels, in_channels_list[-1], out_channels)
        self.residual: nn.ModuleList | None = None
        if residual_block:
            self.residual = nn.ModuleList(ResidualBlock(out_channels, dropout) for _ in range(self.num_levels))
            if weight_norm:
                apply_weight_norm(self.residual)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """See `Neck.pyramid`."""
        named = OrderedDict((str(index), feature) for index, feature in enumerate(features))
        levels: list[Tensor] = list(self.fpn(named).values())
        if self.extra is not None:
            levels += self.extra(p5=levels[-1], c5=features[-1])
        if self.residual is not None:
            levels = [block(level) for block, level in zip(self.residual, levels, strict=True)]
        return levels
