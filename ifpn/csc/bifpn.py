"""One BiFPN layer (Tan et al. 2020, EfficientDet): top-down, then bottom-up, with learned sums."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifpn.bounds import check
from ifpn.layers.init import check_levels, check_sizes, init_csc_conv
from ifpn.layers.norm import Norm, make_norm
from ifpn.layers.resize import nearest, size_of


@check
class BiFPNLayer(nn.Module):
    """Weighted bidirectional fusion with fast attention.

    Top-down: T_l = node(Z_l, up(T_l+1)) with T_L-1 = Z_L-1; the finest T is an output. Bottom-up:
    O_l = node(Z_l, T_l, down(O_l-1)), the coarsest without a T. Up is nearest-neighbour to size, down is
    max-pooling 3x3 of stride 2.

    Args:
        channels: C of every level.
        num_levels: number of levels L >= 2.
        separable: depthwise 3x3 and pointwise 1x1 (EfficientDet) instead of one full 3x3 convolution.
        norm: `"gn"` (default), `"bn"` or `"none"` after the convolution. EfficientDet stacks layers
            with BatchNorm; inside an implicit G that couples the images of a batch.

    Raises:
        UserError: for an unknown norm, or fewer than two levels.
    """

    def __init__(self, channels: int, num_levels: int, *, separable: bool = True, norm: Norm = "gn") -> None:
        super().__init__()
        check_sizes("BiFPNLayer", channels, num_levels, fewest_levels=2)
        self.num_levels = num_levels
        inner = num_levels - 2
        self.top_down = nn.ModuleList(
            BiFPNNode(channels, 2, separable=separable, norm=norm) for _ in range(num_levels - 1)
        )
        self.bottom_up = nn.ModuleList(
            BiFPNNode(channels, inputs, separable=separable, norm=norm) for inputs in [3] * inner + [2]
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels (N, C, H_l, W_l), fine to coarse, H_l+1 = ceil(H_l / 2), in and out."""
        check_levels("BiFPNLayer", levels, self.num_levels)
        top_down = [levels[-1]]
        for z, node in zip(reversed(levels[:-1]), self.top_down, strict=True):
            top_down.insert(0, node([z, nearest(top_down[0], size_of(z))]))
        outputs = [top_down[0]]
        for level, node in enumerate(self.bottom_up, start=1):
            inputs = [levels[level], F.max_pool2d(outputs[-1], kernel_size=3, stride=2, padding=1)]
            if level < self.num_levels - 1:
                inputs.insert(1, top_down[level])
            outputs.append(node(inputs))
        return outputs


class BiFPNNode(nn.Module):
    """sum_k w_k x_k / (sum_k w_k + 1e-4) with w = ReLU(edge_weights), then Swish, convolution, norm."""

    def __init__(self, channels: int, inputs: int, *, separable: bool, norm: Norm) -> None:
        super().__init__()
        self.edge_weights = nn.Parameter(torch.ones(inputs))
        self.conv = _separable(channels) if separable else _full(channels)
        self.norm = make_norm(norm, channels, eps=1e-3, momentum=0.01)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Tensors (N, C, H, W) of one size -> (N, C, H, W)."""
        weights = F.relu(self.edge_weights)
        weights = weights / (weights.sum() + 1e-4)
        fused = inputs[0] * weights[0]
        for weight, x in zip(weights[1:], inputs[1:], strict=True):
            fused = torch.addcmul(fused, x, weight)
        out: Tensor = self.norm(self.conv(F.silu(fused)))
        return out


def _full(channels: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
    init_csc_conv(conv)
    return conv


def _separable(channels: int) -> nn.Module:
    """Depthwise, then pointwise; together they start with the gain of the full convolution."""
    depthwise = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)
    pointwise = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
    nn.init.normal_(depthwise.weight, std=1 / 3)
    nn.init.normal_(pointwise.weight, std=0.48 / math.sqrt(channels))
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))
