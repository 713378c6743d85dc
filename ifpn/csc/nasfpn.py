"""The NAS-FPN cell with seven merges (Ghiasi et al. 2019)."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ifpn.bounds import check
from ifpn.errors import UserError
from ifpn.layers.init import check_levels, check_sizes, init_csc_conv
from ifpn.layers.norm import Norm, make_norm
from ifpn.layers.resize import max_pool_to, nearest, size_of

Attention = Literal["tfnas", "mm"]


@check
class NASFPNCell(nn.Module):
    """The cell found by architecture search, P3..P7 -> P3..P7, each merge followed by ReLU, 3x3 conv, norm.

    In order: P4a = att(P4, P6); P4b = P4a + P4; O3 = P4b + P3; O4 = P4b + O3; O5 = att(O3, O4) + P5;
    O7 = att(P4b, O5) + P7; O6 = att(O5, O7). Sizes are matched by nearest-neighbour up-sampling and by
    max-pooling with kernel = stride = ratio.

    The two known implementations differ in `att`. `"tfnas"` (the authors' code): out = h + l *
    sigmoid(global max of h), h the input from the coarser level, l the other. `"mm"` (MMDetection): out = l
    + h * sigmoid(global average of l), so that the finer level is the gate.
    Borders that the pooling does not fill are left out (`"tfnas"`) or count as zero (`"mm"`).

    Args:
        channels: C of every level.
        num_levels: 5; the graph is made for P3..P7.
        attention: `"tfnas"` or `"mm"`.
        norm: `"gn"` (default), `"bn"` or `"none"` after each convolution. The authors stack cells with
            BatchNorm; inside an implicit G that couples the images of a batch.

    Raises:
        UserError: for another number of levels, or an unknown attention or norm.
    """

    def __init__(self, channels: int, num_levels: int, *, attention: Attention = "tfnas", norm: Norm = "gn") -> None:
        super().__init__()
        check_sizes("NASFPNCell", channels, num_levels)
        if num_levels != 5:
            raise UserError(
                f"csc=nasfpn: must be another one for {num_levels} levels, such as the P2..P5 of detector=faster_rcnn: "
                "the cell is a graph of the five levels P3..P7. Choose csc=pyramid, dense or bifpn."
            )
        self.attention = attention
        self.merges = nn.ModuleDict(
            {name: MergeConv(channels, norm) for name in ("p4a", "p4b", "o3", "o4", "o5", "o7", "o6")}
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels (N, C, H_l, W_l), fine to coarse, H_l+1 = ceil(H_l / 2), in and out."""
        check_levels("NASFPNCell", levels, 5)
        p3, p4, p5, p6, p7 = levels
        sizes = {3 + index: size_of(level) for index, level in enumerate(levels)}

        def fit(x: Tensor, level: int, to: int) -> Tensor:
            return self._fit(x, to - level, sizes[to])

        merge = self.merges
        p4a = merge["p4a"](self._attend(p4, fit(p6, 6, to=4)))
        p4b = merge["p4b"](p4 + p4a)
        o3 = merge["o3"](p3 + fit(p4b, 4, to=3))
        o4 = merge["o4"](p4b + fit(o3, 3, to=4))
        o5 = merge["o5"](self._attend(fit(o3, 3, to=5), fit(o4, 4, to=5)) + p5)
        o7 = merge["o7"](self._attend(fit(p4b, 4, to=7), fit(o5, 5, to=7)) + p7)
        o6 = merge["o6"](self._attend(fit(o5, 5, to=6), fit(o7, 7, to=6)))
        return [o3, o4, o5, o6, o7]

    def _fit(self, x: Tensor, steps: int, size: tuple[int, int]) -> Tensor:
        """Bring a map to the size of a level `steps` coarser (negative: finer)."""
        if steps <= 0:
            return nearest(x, size)
        if self.attention == "tfnas":
            return max_pool_to(x, size, (2**steps, 2**steps), fill=-math.inf)
        h, w = size_of(x)
        return max_pool_to(x, size, (math.ceil(h / size[0]), math.ceil(w / size[1])), fill=0.0)

    def _attend(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """The merge with global attention, of maps (N, C, H, W) from a finer and from a coarser level."""
        if self.attention == "tfnas":
            return coarse + fine * coarse.amax(dim=(2, 3), keepdim=True).sigmoid()
        return fine + coarse * fine.mean(dim=(2, 3), keepdim=True).sigmoid()


class MergeConv(nn.Module):
    """ReLU, 3x3 convolution with bias, norm."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        init_csc_conv(self.conv)
        self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        out: Tensor = self.norm(self.conv(F.relu(x)))
        return out
