"""Deformable convolutions: version 1 (learned offsets) and version 2 (learned offsets and a mask per sampling point).

Dai et al., "Deformable Convolutional Networks" (ICCV 2017); Zhu et al., "Deformable ConvNets v2" (CVPR 2019), Eq. 1.
Version 2 starts from half the plain convolution: its offsets and mask logits come from one convolution that starts at
zero, and sigmoid(0) = 1/2. That half is the convention of the published detectors, so their converted weights fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

OFFSET_KEYS = ("offset.weight", "offset.bias")


class DeformableConv(nn.Conv2d):
    """3x3 convolution at learned offsets (Dai et al. 2017), one offset group.

    The offsets come from a 3x3 convolution of the same input with the same stride. It starts at zero, so that
    the layer starts as the plain convolution with the same weights. Sampling is done in fp32: torchvision has
    no bf16 kernel on the CPU, and offsets of some hundred pixels need the digits. There is no double
    backward.

    Args:
        channels: input and output channels.
        stride: 1 or 2 (padding 1: the output has ceil(size / stride) rows and columns).
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel_size=3, stride=stride, padding=1)
        self.offset = nn.Conv2d(channels, 2 * 9, kernel_size=3, stride=stride, padding=1)
        nn.init.zeros_(self.offset.weight)
        if self.offset.bias is not None:
            nn.init.zeros_(self.offset.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        offset = self.offset(input)
        device = input.device.type
        counting = not torch.amp.is_autocast_available(device)  # the meta device: shapes without values
        with nullcontext() if counting else torch.autocast(device, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            sampled: Tensor = deform_conv2d(
                input.float(),
                offset.float(),
                self.weight.float(),
                bias,
                stride=self.stride,
                padding=self.padding,
            )
        return sampled.to(offset.dtype)

    def plain(self, input: Tensor) -> Tensor:
        """The same kernel at the regular positions."""
        out: Tensor = self._conv_forward(input, self.weight, self.bias)
        return out


class ModulatedDeformConv2d(nn.Module):
    """A k x k convolution that samples its input at learned positions with learned weights.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel_size: k.
        stride, padding, dilation, groups: as `nn.Conv2d`.
        bias: whether the convolution itself has a bias.

    `weight` and `bias` carry the names of `nn.Conv2d`, so that plain weights load unchanged;
    `offset` is the convolution that predicts 2 k² offsets (y, x) and k² mask logits, in one group.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        plain = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.weight = plain.weight
        self.bias = plain.bias
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.points = kernel_size * kernel_size
        self.offset = nn.Conv2d(in_channels, 3 * self.points, kernel_size, stride, padding, dilation=dilation)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]  # created with a bias above

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> ModulatedDeformConv2d:
        """The deformable twin of a square convolution; takes over its weight and bias."""
        if isinstance(conv.padding, str) or not _square(conv):
            raise ValueError(f"only square convolutions with numeric padding can be made deformable, got {conv}")
        twin = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            stride=conv.stride[0],
            padding=conv.padding[0],
            dilation=conv.dilation[0],
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        twin.weight = conv.weight
        twin.bias = conv.bias
        return twin

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H', W'), sizes as the plain convolution's."""
        predicted = self.offset(x)
        offset, mask = predicted.split([2 * self.points, self.points], dim=1)
        # in fp32: the operator has no half-precision CPU kernel, and positions deserve more than 8 bits
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = deform_conv2d(
                x.float(),
                offset.float(),
                self.weight.float(),
                None if self.bias is None else self.bias.float(),
                self.stride,
                self.padding,
                self.dilation,
                mask.float().sigmoid(),
            )
        return out.to(predicted.dtype)


def deform_bottlenecks(module: nn.Module, stages: Iterable[str]) -> None:
    """Make the 3 x 3 convolution ("conv2") of every bottleneck of the named stages deformable."""
    for stage in stages:
        for block in module.get_submodule(stage).children():
            conv = block.get_submodule("conv2")
            if not isinstance(conv, nn.Conv2d):
                raise TypeError(f"{stage}: expected a plain convolution named conv2, got {type(conv).__name__}")
            block.conv2 = ModulatedDeformConv2d.from_conv(conv)


def _square(conv: nn.Conv2d) -> bool:
    sizes = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return all(len(set(size)) == 1 for size in sizes)
