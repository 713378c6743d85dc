"""Stacks of blocks with own weights (paper Eq. 1): EfficientDet's and NAS-FPN's necks, and i-FPN's explicit twin."""

from __future__ import annotations

import functools
from typing import Annotated

import torch
from torch import nn

from ifpn.bounds import Ge, Le, Rate, Width, check
from ifpn.csc import PyramidConv
from ifpn.errors import UserError
from ifpn.layers.norm import group_norm
from ifpn.necks.neck import ExtraLevelsFrom, Levels, Neck, check_pyramid_sizes
from ifpn.necks.projection import NormLayer, Projection
from ifpn.necks.pyramid_layout import to_network
from ifpn.necks.transformation import CrossScale, Transformation


@check
class StackedFPN(Neck):
    """P = f_T(... f_1(B)), T cross-scale blocks with own weights; B enters once.

    With BiFPN layers it is EfficientDet's neck (3 layers in D0 to 7 in D4 and D5), with NAS-FPN cells
    NAS-FPN's (7).

    With `inject` the blocks are the G of `ImplicitFPN` and B is added before each:
    P^t = G_t(P^(t-1) + B), P^0 = 0. That is `ImplicitFPN` with `Unroll(T)` but for the sharing of the
    weights; with T = 1 the two are the same function, bit for bit.

    Args:
        in_channels_list: as `torchvision.ops.FeaturePyramidNetwork`, like the next three.
        out_channels: C of every output level.
        extra_blocks: run on the finished pyramid.
        norm_layer: called with C, follows the 1x1 convolutions that make B; None for none.
        csc: makes one cross-scale block, called `csc(channels, num_levels)`.
        repeats: T >= 1.
        extra_levels: B6 from the projected C5 (`"p5"`), from C5 (`"c5"`), or neither B6 nor B7
            (`"none"`).
        inject: blocks are G, and B is added before each.
        residual_block: as `ImplicitFPN`, of each G_t; like all that follow, it has a meaning with `inject` only.
        weight_norm: as `ImplicitFPN`.
        dropout: as `ImplicitFPN`.
        output_norm: as `ImplicitFPN`.
        input_norm: as `ImplicitFPN`.
        add_input: as `ImplicitFPN`.

    Raises:
        UserError: `repeats` below one, or a block without parameters (the stack would be B).
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: Width,
        extra_blocks: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        *,
        csc: CrossScale = PyramidConv,
        repeats: Annotated[int, Ge(1), Le(100)] = 7,
        extra_levels: ExtraLevelsFrom = "p5",
        inject: bool = False,
        residual_block: bool = True,
        weight_norm: bool = True,
        dropout: Rate = 0.05,
        output_norm: bool = False,
        input_norm: bool = False,
        add_input: bool = False,
    ) -> None:
        super().__init__(in_channels_list, out_channels, extra_blocks, extra_levels)
        self.projection = Projection(in_channels_list, out_channels, self.extra_levels, norm_layer)
        self.inject, self.add_input = inject, inject and add_input
        if inject and input_norm:
            self.input_norm = nn.ModuleList(group_norm(out_channels) for _ in range(self.num_levels))
        make: CrossScale = csc
        if inject:
            make = functools.partial(
                Transformation,
                csc=csc,
                residual_block=residual_block,
                weight_norm=weight_norm,
                dropout=dropout,
                output_norm=output_norm,
            )
        self.blocks = nn.ModuleList(make(out_channels, self.num_levels) for _ in range(repeats))
        if not any(True for _ in self.blocks.parameters()):
            raise UserError("csc=none: must be another one with neck=stack, which stacks nothing. Use neck=none.")

    def pyramid(self, features: Levels) -> Levels:
        """See `Neck.pyramid`."""
        levels: Levels = self.projection(features)
        check_pyramid_sizes(levels)
        if self.inject:
            return self._injected(levels)
        for block in self.blocks:
            levels = block(levels)
        return levels

    def _injected(self, b: Levels) -> Levels:
        """P^T, or P^T + B. P is fp32 inside, as the state of the implicit neck."""
        if hasattr(self, "input_norm"):
            b = [norm(level) for norm, level in zip(self.input_norm, b, strict=True)]
        dtype = torch.promote_types(b[0].dtype, torch.float32)
        p = [torch.zeros_like(level, dtype=dtype) for level in b]
        for block in self.blocks:
            p = [level.to(dtype) for level in block(_sum(to_network(p, b), b))]
        p = to_network(p, b)
        return _sum(p, b) if self.add_input else p


def _sum(p: Levels, b: Levels) -> Levels:
    return [p_l + b_l for p_l, b_l in zip(p, b, strict=True)]
