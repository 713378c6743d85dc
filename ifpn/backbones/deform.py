"""Deformable convolution v2: learned offsets and a learned mask per sampling point.

Zhu et al., "Deformable ConvNets v2" (CVPR 2019), Eq. 1. Offsets and mask logits come from one convolution
that starts at zero, so that training starts from half the plain convolution: zero offsets, mask
sigmoid(0) = 1/2. (That half is the convention of the published detectors, so their converted weights fit.)
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

OFFSET_KEYS = ("offset.weight", "offset.bias")


class ModulatedDeformConv2d(nn.Module):
    """A k x k convolution that samples its input at learned positions with learned weights.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel_size: k.
        stride, padding, dilation, groups: as ``nn.Conv2d``.
        bias: whether the convolution itself has a bias.

    ``weight`` and ``bias`` carry the names of ``nn.Conv2d``, so that plain weights load unchanged;
    ``offset`` is the convolution that predicts 2 k² offsets (y, x) and k² mask logits, in one group.
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
    def from_conv(cls, conv: nn.Conv2d) -> "ModulatedDeformConv2d":
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
