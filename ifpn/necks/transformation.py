"""The nonlinear transformation G of the residual-like iteration (paper Sec. 3.2.2, Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ifpn.errors import UserError
from ifpn.layers.norm import group_norm
from ifpn.layers.solve_scope import VariationalDropout, apply_weight_norm

Block = Literal["basic", "post_norm"]
CrossScale = Callable[[int, int], nn.Module]


class ResidualBlock(nn.Module):
    """R(z) = ReLU(z + GN(drop(conv3x3(ReLU(GN(conv3x3(z))))))), C -> C, stride 1, convolutions without bias.

    The basic block of He et al. 2016 with GroupNorm (`norm_groups`); dropout after the
    second convolution as in MDEQ. With `post_norm` a third GroupNorm follows the last ReLU, as in the recurrent mask
    head of IFR, by two of the authors of i-FPN: it bounds the block whatever its weights.

    Args:
        channels: C.
        dropout: rate of the variational dropout, in [0, 1).
        post_norm: GN(R(z)) instead of R(z).
    """

    def __init__(self, channels: int, dropout: float, *, post_norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = group_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = group_norm(channels)
        self.dropout = VariationalDropout(dropout)
        self.norm3 = group_norm(channels) if post_norm else None
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, z: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        inner = F.relu(self.norm1(self.conv1(z)), inplace=True)
        out = F.relu(z + self.norm2(self.dropout(self.conv2(inner))))
        return out if self.norm3 is None else self.norm3(out)


class Transformation(nn.Module):
    """G: a residual block per level, then a cross-scale block, O_i = sum_j W_ij(R_j(Z_j)) (paper Eq. 8).

    Args:
        channels: C of every level.
        num_levels: number of levels L.
        csc: makes the cross-scale block, called `csc(channels, num_levels)`.
        residual_block: R_j with own weights per level, or the identity (paper Table 3 without RBL).
        weight_norm: on all convolutions but the offset convolutions of deformable kernels.
        dropout: rate of the variational dropout in R_j; without residual blocks there is none.
        output_norm: GroupNorm with own parameters per level on G's output, which Eq. 8 leaves unbounded.
        block: the residual block, `"basic"` or `"post_norm"`.

    Raises:
        UserError: G would have no parameters, or `dropout` is not in [0, 1).
    """

    def __init__(
        self,
        channels: int,
        num_levels: int,
        *,
        csc: CrossScale,
        residual_block: bool,
        weight_norm: bool,
        dropout: float,
        output_norm: bool,
        block: Block = "basic",
    ) -> None:
        super().__init__()
        post_norm = block == "post_norm"
        if post_norm and not residual_block:
            raise UserError("block=post_norm: must be basic with residual_block=false, which leaves the block out.")
        if residual_block:
            levels = range(num_levels)
            self.residual = nn.ModuleList(ResidualBlock(channels, dropout, post_norm=post_norm) for _ in levels)
        else:
            self.residual = nn.ModuleList(nn.Identity() for _ in range(num_levels))
        self.csc = csc(channels, num_levels)
        if not residual_block and not any(True for _ in self.csc.parameters()):
            raise UserError(
                "residual_block=false: must be true with csc=none, which leaves G without parameters. Choose another "
                "csc, or use neck=none."
            )
        if weight_norm:
            apply_weight_norm(self)
        self.norm = nn.ModuleList(group_norm(channels) for _ in range(num_levels)) if output_norm else None

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Z = P + B, levels (N, C, H_l, W_l), fine to coarse, in; G(Z) of the same shapes out."""
        outputs: list[Tensor] = self.csc([r(z) for r, z in zip(self.residual, levels, strict=True)])
        if self.norm is None:
            return outputs
        return [norm(out) for norm, out in zip(self.norm, outputs, strict=True)]
