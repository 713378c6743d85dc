"""A deformable convolution, version 1: learned sampling offsets, no modulation mask."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


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
