"""Pyramid convolution (paper Eq. 8 and Fig. 4c; Wang et al. 2020, SEPC)."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifpn.bounds import Ge, check
from ifpn.errors import UserError
from ifpn.layers.deform import DeformableConv
from ifpn.layers.init import check_levels, check_sizes, init_csc_conv
from ifpn.layers.resize import size_of


@check
class PyramidConv(nn.Module):
    """Each level from its two neighbours and itself: O_i = W_ii Z_i + W_i,i-1 Z_i-1 + up(W_i,i+1 Z_i+1).

    `W_ii` is a 3x3 convolution, `W_i,i-1` (from the finer level) one of stride 2, `W_i,i+1` (from the
    coarser level) one followed by bilinear up-sampling to the size of level i. The first and last level have
    no neighbour on one side and drop the term. All have a bias. Weights start as N(0, 0.01 * sqrt(256 / C)).

    Args:
        channels: C of every level.
        num_levels: number of levels L; 5 levels have 13 kernels.
        share: three kernels for all levels, as SEPC, instead of one per pair of levels, as Eq. 8's W_ij.
        ibn: integrated BatchNorm: one BatchNorm whose statistics run over the batch and the pixels of all
            levels.
        deform: deformable kernels for the outputs from level `deform_from` up.
        deform_from: index of the first output level with deformable kernels (1 is P4).
        align_corners: of the bilinear up-sampling (SEPC: True).
        relu: a ReLU at the end (SEPC: yes; Eq. 8: no).

    Raises:
        UserError: for channels or levels below one, or `deform_from` outside 0..L-1 with `deform`.
    """

    def __init__(
        self,
        channels: int,
        num_levels: int,
        *,
        share: bool = False,
        ibn: bool = False,
        deform: bool = False,
        deform_from: Annotated[int, Ge(0)] = 1,
        align_corners: bool = False,
        relu: bool = False,
    ) -> None:
        super().__init__()
        check_sizes("PyramidConv", channels, num_levels)
        if deform and not 0 <= deform_from < num_levels:
            raise UserError(f"deform_from={deform_from}: must be the index of a level, 0 to {num_levels - 1}.")
        self.num_levels = num_levels
        self.share = share
        self.deform_from = deform_from if deform else num_levels
        self.align_corners = align_corners
        self.relu = relu

        self.same = self._kernels(channels, outputs=range(num_levels))
        self.from_finer = self._kernels(channels, outputs=range(1, num_levels), stride=2)
        self.from_coarser = self._kernels(channels, outputs=range(num_levels - 1))
        self.ibn = IntegratedBatchNorm(channels) if ibn else None

    def _kernels(self, channels: int, outputs: range, stride: int = 1) -> nn.ModuleList:
        """One kernel per output level, or one for all, deformable where an output level asks for it."""
        if self.share:
            outputs = outputs[-1:]
        convs: list[nn.Conv2d] = []
        for level in outputs:
            if level >= self.deform_from:
                convs.append(DeformableConv(channels, stride))
            else:
                convs.append(nn.Conv2d(channels, channels, kernel_size=3, stride=stride, padding=1))
            init_csc_conv(convs[-1])
        return nn.ModuleList(convs)

    def _apply_kernel(self, kernels: nn.ModuleList, index: int, output: int, x: Tensor) -> Tensor:
        conv = kernels[0 if self.share else index]
        if isinstance(conv, DeformableConv) and output < self.deform_from:
            return conv.plain(x)  # a shared kernel serves plain levels too
        result: Tensor = conv(x)
        return result

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels (N, C, H_l, W_l), fine to coarse, H_l+1 = ceil(H_l / 2), in and out."""
        check_levels("PyramidConv", levels, self.num_levels)
        outputs = []
        for i, z in enumerate(levels):
            out = self._apply_kernel(self.same, i, i, z)
            if i > 0:
                out = out + self._apply_kernel(self.from_finer, i - 1, i, levels[i - 1])
            if i < self.num_levels - 1:
                coarse = self._apply_kernel(self.from_coarser, i, i, levels[i + 1])
                out = out + F.interpolate(coarse, size=size_of(z), mode="bilinear", align_corners=self.align_corners)
            outputs.append(out)
        if self.ibn is not None:
            outputs = self.ibn(outputs)
        return [F.relu(out) for out in outputs] if self.relu else outputs


class IntegratedBatchNorm(nn.BatchNorm2d):
    """One BatchNorm over all levels joined along their pixels (SEPC's iBN): the finest level weighs most."""

    def forward(self, levels: list[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """Levels (N, C, H_l, W_l) in and out."""
        joined = torch.cat([level.flatten(2) for level in levels], dim=2)
        normed = super().forward(joined.unsqueeze(-1)).squeeze(-1)
        parts = torch.split(normed, [level.shape[2] * level.shape[3] for level in levels], dim=2)
        return [part.reshape(level.shape) for part, level in zip(parts, levels, strict=True)]
