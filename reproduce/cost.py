"""Parameters and multiply-adds of necks and cross-scale blocks, counted on meta tensors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ifpn.necks.implicit import EquilibriumNeck
from ifpn.necks.neck import Neck
from ifpn.solvers import Unroll


@dataclass(frozen=True)
class Cost:
    """Learned parameters, and multiply-adds of the convolutions for one image.

    Normalisation, activations, resizing, sums and the sampling of deformable kernels are not counted.
    ``gains`` are the weight norm's, contained in ``params``.
    """

    params: int
    macs: int
    gains: int = 0


def level_sizes(height: int, width: int, strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """ceil(size / stride) per stride."""
    return [(-(-height // s), -(-width // s)) for s in strides]


def block_cost(
    make: Callable[[], nn.Module], channels: int, height: int, width: int, inputs: int = 1, levels: int = 5
) -> Cost:
    """Cost of a block ``levels -> levels`` on P3.. of an image of height x width.

    Args:
        make: builds the block (on the meta device).
        channels: C of every level.
        height: of the image, in pixels, padding included.
        width: likewise.
        inputs: how many pyramids the block takes (MDEQ's function: 2).
        levels: number of levels from P3 up.
    """
    sizes = level_sizes(height, width, tuple(2**level for level in range(3, 3 + levels)))
    with torch.device("meta"), torch.no_grad():
        block = make()
        pyramid = [torch.empty(1, channels, h, w) for h, w in sizes]
        with _count_macs(block) as macs:
            block(*[pyramid] * inputs)
    return _cost(block, sum(macs))


def neck_cost(make: Callable[[], Neck], height: int, width: int, strides: tuple[int, ...] = (8, 16, 32)) -> Cost:
    """Cost of a neck on an image of height x width; for an implicit neck with ONE evaluation of G.

    Args:
        make: builds the neck (on the meta device).
        height: of the image, in pixels, padding included.
        width: likewise.
        strides: of the backbone levels it takes.
    """
    sizes = level_sizes(height, width, strides)
    with torch.device("meta"), torch.no_grad():
        neck = make().eval()
        if isinstance(neck, EquilibriumNeck):
            neck.solver = Unroll(steps=1)
        features = {
            f"c{index}": torch.empty(1, channels, h, w)
            for index, (channels, (h, w)) in enumerate(zip(neck.in_channels_list, sizes, strict=True))
        }
        with _count_macs(neck) as macs:
            neck(features)
    return _cost(neck, sum(macs))


def _cost(module: nn.Module, macs: int) -> Cost:
    gains = 0
    for child in module.modules():
        if parametrize.is_parametrized(child, "weight"):
            gains += child.parametrizations["weight"].original0.numel()  # type: ignore[index, union-attr]
    return Cost(sum(p.numel() for p in module.parameters()), macs, gains)


@contextmanager
def _count_macs(module: nn.Module) -> Iterator[list[int]]:
    """Collects output pixels x weights of every convolution called inside the block."""
    macs: list[int] = []

    def count(conv: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(conv, nn.Conv2d):
            macs.append(conv.weight.numel() * output.shape[0] * output.shape[2] * output.shape[3])

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d)]
    try:
        yield macs
    finally:
        for hook in hooks:
            hook.remove()
