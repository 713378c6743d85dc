"""The feature pyramid network (Lin et al. 2017): torchvision's, with P6 and P7 by our rule."""

import functools
from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from ifpn.errors import UserError
from ifpn.layers.norm import Norm, make_norm
from ifpn.necks.neck import ExtraLevelsFrom, Neck
from ifpn.necks.projection import ExtraLevels, NormLayer


class FPN(Neck):
    """1x1 lateral convolutions, top-down sum with nearest-neighbour up-sampling, 3x3 output convolutions.

    torchvision's ``LastLevelP6P7`` takes P6 from P5 or from C5 according to their channels; here the caller
    says.

    Args:
        in_channels_list, out_channels, extra_blocks, norm_layer: as
            ``torchvision.ops.FeaturePyramidNetwork``.
        extra_levels: P6 from the output P5 (``"p5"``: FCOS, ATSS, AutoAssign), from C5 (``"c5"``: RetinaNet),
            or neither P6 nor P7 (``"none"``: Faster R-CNN).
        norm: after the lateral and the output convolutions: ``"none"`` (Lin et al. 2017), ``"gn"`` (GroupNorm) or
            ``"bn"`` (BatchNorm); a shorter way to say ``norm_layer``.

    Raises:
        UserError: for another ``norm``, or one beside ``norm_layer``.
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: int,
        extra_blocks: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        *,
        extra_levels: ExtraLevelsFrom = "p5",
        norm: Norm = "none",
    ) -> None:
        super().__init__(in_channels_list, out_channels, extra_blocks, extra_levels)
        if norm != "none":
            if norm_layer is not None:
                raise UserError(f"norm={norm!r} and norm_layer both name a normalisation: give one of them")
            norm_layer = functools.partial(make_norm, norm)
        self.fpn = FeaturePyramidNetwork(in_channels_list, out_channels, norm_layer=norm_layer)
        self.extra = ExtraLevels.of(self.extra_levels, in_channels_list[-1], out_channels)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """See :meth:`Neck.pyramid`."""
        named = OrderedDict((str(index), feature) for index, feature in enumerate(features))
        levels: list[Tensor] = list(self.fpn(named).values())
        if self.extra is not None:
            levels += self.extra(p5=levels[-1], c5=features[-1])
        return levels
