"""Dense-FPN (paper Fig. 4a and 4b; the fusion module of HRNet, Wang et al. 2020)."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from ifpn.bounds import check
from ifpn.layers.init import check_levels, check_sizes, init_csc_conv
from ifpn.layers.norm import Norm, make_norm
from ifpn.layers.resize import nearest, size_of


@check
class DenseFusion(nn.Module):
    """Every level from every level: O_i = sum_j D_ij(Z_j).

    `D_ii` is a 1x1 convolution, `D_ij` from a coarser level (j > i) a 1x1 convolution and
    nearest-neighbour up-sampling, from a finer level (j < i) a chain of i - j 3x3 convolutions of stride 2.
    Convolutions have a bias unless a norm follows. Weights start as N(0, 0.01 * sqrt(256 / C)).

    Args:
        channels: C of every level.
        num_levels: number of levels L; 5 levels have 25 paths.
        norm: `"none"`, `"gn"` or `"bn"` after every convolution (the paper names none; HRNet:
            BatchNorm).
        chain_act: a ReLU between the convolutions of a chain (the paper names none; HRNet: yes).

    Raises:
        UserError: for an unknown norm, or channels or levels below one.
    """

    def __init__(self, channels: int, num_levels: int, *, norm: Norm = "none", chain_act: bool = False) -> None:
        super().__init__()
        check_sizes("DenseFusion", channels, num_levels)
        self.num_levels = num_levels
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(channels, i, j, norm, chain_act) for j in range(num_levels)) for i in range(num_levels)
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels (N, C, H_l, W_l), fine to coarse, H_l+1 = ceil(H_l / 2), in and out."""
        check_levels("DenseFusion", levels, self.num_levels)
        outputs = []
        for i, target in enumerate(levels):
            terms = [nearest(self.path(i, j)(z), size_of(target)) for j, z in enumerate(levels)]
            outputs.append(list(itertools.accumulate(terms))[-1])
        return outputs

    def path(self, i: int, j: int) -> nn.Module:
        """D_ij without its up-sampling."""
        row = self.paths[i]
        if not isinstance(row, nn.ModuleList):
            raise TypeError(f"paths[{i}] was replaced by a {type(row).__name__}")
        return row[j]


def _path(channels: int, i: int, j: int, norm: Norm, chain_act: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    kernel, stride = (3, 2) if j < i else (1, 1)
    for step in range(max(1, i - j)):
        if step and chain_act:
            layers.append(nn.ReLU())
        conv = nn.Conv2d(channels, channels, kernel, stride=stride, padding=kernel // 2, bias=norm == "none")
        init_csc_conv(conv)
        layers.append(conv)
        if norm != "none":
            layers.append(make_norm(norm, channels))
    return nn.Sequential(*layers)
