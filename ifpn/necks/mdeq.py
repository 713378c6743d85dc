"""The implicit function of MDEQ (Bai et al. 2020) on B: the competitor of paper Table 5."""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from ifpn.bounds import Ge, Le, Rate, Weight, Width, check
from ifpn.errors import UserError
from ifpn.layers.resize import nearest, size_of
from ifpn.layers.solve_scope import VariationalDropout, apply_weight_norm
from ifpn.necks.equilibrium_options import EquilibriumOptions, FixedPointSolver
from ifpn.necks.implicit import EquilibriumNeck
from ifpn.necks.neck import ExtraLevelsFrom, Levels
from ifpn.necks.projection import NormLayer


class MDEQFunction(nn.Module):
    """One MDEQ module: a residual block with injection per level, full fusion, 1x1 convolutions."""

    def __init__(
        self,
        channels: int,
        num_levels: int,
        *,
        expansion: int,
        groups: int,
        weight_norm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        if groups < 2 or groups % 2 or channels % groups:
            fits = ", ".join(str(n) for n in range(2, min(channels, 32) + 1, 2) if channels % n == 0) or "none here"
            raise UserError(f"groups={groups}: must be even and divide the {channels} channels. Use one of {fits}.")
        levels = range(num_levels)
        self.blocks = nn.ModuleList(InjectionBlock(channels, expansion, groups, dropout) for _ in levels)
        self.fuse = nn.ModuleList(nn.ModuleList(_fuse_path(channels, i, j, groups) for j in levels) for i in levels)
        self.post = nn.ModuleList(_post(channels, groups // 2) for _ in levels)
        for conv in [m for m in self.modules() if isinstance(m, nn.Conv2d)]:
            nn.init.normal_(conv.weight, std=0.01)  # every convolution has a norm behind it
        if weight_norm:
            apply_weight_norm(self.blocks)
            apply_weight_norm(self.post)

    def forward(self, p: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        """State P and injection B, levels (N, C, H_l, W_l), fine to coarse -> levels of the same shapes."""
        hidden = [block(z, u) for block, z, u in zip(self.blocks, p, b, strict=True)]
        outputs = []
        for row, post, own in zip(self.fuse, self.post, hidden, strict=True):
            paths = row.children()
            terms = [nearest(path(h), size_of(own)) for path, h in zip(paths, hidden, strict=True)]
            outputs.append(post(list(itertools.accumulate(terms))[-1]))
        return outputs


class InjectionBlock(nn.Module):
    """GN(ReLU(z + GN(u + drop(conv3x3(ReLU(GN(conv3x3(z)))))))), C -> e C -> C, convolutions without bias."""

    def __init__(self, channels: int, expansion: int, groups: int, dropout: float) -> None:
        super().__init__()
        inner = expansion * channels
        self.conv1 = nn.Conv2d(channels, inner, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, inner)
        self.conv2 = nn.Conv2d(inner, channels, kernel_size=3, padding=1, bias=False)
        self.dropout = VariationalDropout(dropout)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.norm3 = nn.GroupNorm(groups, channels)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        """State and injection (N, C, H, W) -> (N, C, H, W)."""
        inner = F.relu(self.norm1(self.conv1(z)), inplace=True)
        out: Tensor = self.norm2(self.dropout(self.conv2(inner)) + u)
        return self.norm3(F.relu(out + z))  # type: ignore[no-any-return]


def _fuse_path(channels: int, i: int, j: int, groups: int) -> nn.Module:
    """From level j to level i: nothing, 1x1 (then up-sampled), or i - j strided 3x3 with ReLU between."""
    if i == j:
        return nn.Identity()
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    kernel, stride = (3, 2) if j < i else (1, 1)
    for step in range(max(1, i - j)):
        if step:
            layers[f"relu{step}"] = nn.ReLU(inplace=True)
        layers[f"conv{step}"] = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, bias=False)
        layers[f"norm{step}"] = nn.GroupNorm(groups, channels)
    return nn.Sequential(layers)


def _post(channels: int, groups: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
    return nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=conv, norm=nn.GroupNorm(groups, channels)))


@check
class MDEQNeck(EquilibriumNeck):
    """P* = F(P*, B) with MDEQ's function: B is added inside the block of each level, not to the state.

    The original injects the image at the finest level only; here every level has its B. Otherwise as
    `ImplicitFPN`, with its rules for `Unroll(0)` and for what happens once per solve.

    Args:
        in_channels_list: as `ImplicitFPN`.
        out_channels: as `ImplicitFPN`.
        extra_blocks: as `ImplicitFPN`.
        norm_layer: as `ImplicitFPN`.
        solver: as `ImplicitFPN`.
        extra_levels: as `ImplicitFPN`.
        expansion: channels inside a block, in units of C. MDEQ uses 5 and more; 1 gives a function of about
            the size of G with a dense csc.
        groups: GroupNorm groups, half of them after the fusion; even, and divides C.
        weight_norm: weight norm on the convolutions of the blocks and after the fusion, as MDEQ.
        dropout: rate of the variational dropout in the blocks.
        input_norm: as `ImplicitFPN`.
        add_input: as `ImplicitFPN`.
        jacobian_penalty: weight of the estimated ||dF/dP||_F^2 / D at P* in `auxiliary_losses["jacobian"]`.
        compile: as `ImplicitFPN`.

    Raises:
        UserError: groups that are odd or do not divide C, and rates or weights out of range.
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: Width,
        extra_blocks: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        *,
        solver: FixedPointSolver | None = None,
        extra_levels: ExtraLevelsFrom = "p5",
        expansion: Annotated[int, Ge(1), Le(16)] = 1,
        groups: Annotated[int, Ge(2), Le(1024)] = 8,
        weight_norm: bool = True,
        dropout: Rate = 0.05,
        input_norm: bool = False,
        add_input: bool = False,
        jacobian_penalty: Weight = 0.0,
        compile: bool = False,
    ) -> None:
        g_factory = functools.partial(
            MDEQFunction, expansion=expansion, groups=groups, weight_norm=weight_norm, dropout=dropout
        )
        options = EquilibriumOptions(
            solver=solver,
            input_norm=input_norm,
            add_input=add_input,
            jacobian_penalty=jacobian_penalty,
            compile=compile,
        )
        super().__init__(g_factory, in_channels_list, out_channels, extra_blocks, norm_layer, extra_levels, options)

    def step(self, p: Levels, b: Levels) -> Levels:
        """F(P, B)."""
        return self.evaluate_g(p, b)
