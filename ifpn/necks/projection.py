"""Backbone features to B: the levels that enter the iteration, all with the same number of channels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ifpn.necks.neck import ExtraLevelsFrom

NormLayer = Callable[[int], nn.Module]


class Projection(nn.Module):
    """1x1 convolutions on the backbone levels; B6 and B7 by convolutions of stride 2.

    B_l = conv1x1(C_l), without activation; see `ExtraLevels` for B6 and B7. The paper calls B "the
    backbone feature" and shows no more of it. Weights are Xavier-like (`kaiming_uniform` with a = 1),
    biases 0.

    Args:
        in_channels_list: channels of the backbone levels, fine to coarse.
        out_channels: C.
        extra_levels: B6 from the projected C5 (`"p5"`), from C5 itself (`"c5"`), or no B6 and B7
            (`"none"`).
        norm_layer: called with C, follows each 1x1 convolution (which then has no bias); None for none.
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: int,
        extra_levels: ExtraLevelsFrom,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_lateral(channels, out_channels, norm_layer) for channels in in_channels_list)
        self.extra = ExtraLevels.of(extra_levels, in_channels_list[-1], out_channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """(N, C_l, H_l, W_l) per level -> (N, C, H_l, W_l) per level, then B6 and B7."""
        levels = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        if self.extra is not None:
            levels += self.extra(p5=levels[-1], c5=features[-1])
        return levels


class ExtraLevels(nn.Module):
    """P6 = conv3x3 of stride 2 of the last level, P7 = conv3x3 of stride 2 of ReLU(P6).

    P6 itself has no ReLU. `source="p5"` takes the pyramid's last level (FCOS, ATSS), `"c5"` the
    backbone's (RetinaNet).
    """

    def __init__(self, source: ExtraLevelsFrom, c5_channels: int, out_channels: int) -> None:
        super().__init__()
        self.source = source
        self.p6 = nn.Conv2d(c5_channels if source == "c5" else out_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)
        init_xavier(self.p6)
        init_xavier(self.p7)

    @classmethod
    def of(cls, source: ExtraLevelsFrom, c5_channels: int, out_channels: int) -> ExtraLevels | None:
        """None for `source="none"`."""
        return None if source == "none" else cls(source, c5_channels, out_channels)

    def forward(self, *, p5: Tensor, c5: Tensor) -> list[Tensor]:
        """(N, C, H, W) and (N, C_5, H, W) -> [P6, P7] of sizes ceil(H / 2), ceil(H / 4)."""
        p6 = self.p6(c5 if self.source == "c5" else p5)
        return [p6, self.p7(F.relu(p6))]


def init_xavier(conv: nn.Conv2d) -> None:
    """Uniform weights of variance 1 / fan_in, zero bias, in place (the usual FPN initialisation)."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _lateral(in_channels: int, out_channels: int, norm_layer: NormLayer | None) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=norm_layer is None)
    init_xavier(conv)
    if norm_layer is None:
        return conv
    return nn.Sequential(OrderedDict(conv=conv, norm=norm_layer(out_channels)))
