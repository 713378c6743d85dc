"""The table of costs: every block and neck of the paper, beside the counts made from their definitions."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ifpn.csc import BiFPNLayer, DenseFusion, NASFPNCell, NoFusion, PyramidConv
from ifpn.necks.fpn import FPN
from ifpn.necks.mdeq import MDEQFunction
from ifpn.necks.neck import Neck
from ifpn.necks.none import NoFPN
from ifpn.necks.pafpn import PAFPN
from ifpn.necks.transformation import CrossScale, Transformation
from reproduce.cost import Cost, block_cost, neck_cost

RESNET50 = [512, 1024, 2048]  # channels of C3, C4, C5
REFERENCE_IMAGE = (800, 1344)  # 1333 padded to a multiple of 32
REFERENCE_CHANNELS = 256


@dataclass(frozen=True)
class Row:
    """A line: ``reference`` is for 256 channels, 800 x 1344 pixels; ``cost`` takes (C, height, width)."""

    name: str
    reference: Cost
    cost: Callable[[int, int, int], Cost]


def rows() -> list[Row]:
    """All rows; weight norm, which adds one gain per output channel, is off."""
    return [
        _g("RBL: 5 residual blocks", 5_903_360, 26_424_115_200, NoFusion),
        _csc("Dense-FPN (25 paths)", 12_788_480, 16_727_474_176, DenseFusion),
        _csc("Pyramid convolution, 13 own W_ij", 7_671_040, 19_818_086_400, PyramidConv),
        _csc("Pyramid convolution, shared 3", 1_770_240, 19_818_086_400, _shared_pyramid),
        _g("RBL + pyramid = the default G", 13_574_400, 46_242_201_600, PyramidConv),
        _g("RBL + dense (Fig. 4b)", 18_691_840, 43_151_589_376, DenseFusion),
        _csc("BiFPN layer, separable", 546_835, 1_894_296_320, BiFPNLayer),
        _csc("BiFPN layer, full 3x3", 4_722_707, 16_469_655_552, _full_bifpn),
        _csc("NAS-FPN cell", 4_134_144, 18_166_579_200, NASFPNCell),
        _csc("7 BiFPN layers", 3_827_845, 13_260_074_240, lambda c, n: _seven(BiFPNLayer, c, n)),
        _csc("7 NAS-FPN cells", 28_939_008, 127_166_054_400, lambda c, n: _seven(NASFPNCell, c, n)),
        _neck("FPN, P6 from P5", 3_868_672, 17_065_574_400, lambda c: FPN(RESNET50, c)),
        _neck("FPN, P6 from C5", 7_997_440, 18_192_728_064, lambda c: FPN(RESNET50, c, extra_levels="c5")),
        _neck("PANet, bottom-up on P3-P5", 6_228_992, 23_258_726_400, lambda c: PAFPN(RESNET50, c)),
        _neck(
            "PANet, bottom-up on P3-P7",
            8_589_312,
            23_671_603_200,
            lambda c: PAFPN(RESNET50, c, bottom_up="all"),
        ),
        _neck("no FPN, B6 from the projected C5", 2_098_432, 4_059_955_200, lambda c: NoFPN(RESNET50, c)),
        _neck("no FPN, B6 from C5", 6_227_200, 5_187_108_864, lambda c: NoFPN(RESNET50, c, extra_levels="c5")),
        _mdeq("MDEQ function, expansion 5", 42_306_560, 148_848_050_176, 5),
        _mdeq("MDEQ function, expansion 1", 18_703_360, 43_151_589_376, 1),
    ]


def _csc(name: str, params: int, macs: int, csc: CrossScale) -> Row:
    def cost(channels: int, height: int, width: int) -> Cost:
        return block_cost(lambda: csc(channels, 5), channels, height, width)

    return Row(name, Cost(params, macs), cost)


def _g(name: str, params: int, macs: int, csc: CrossScale) -> Row:
    def make(channels: int, num_levels: int) -> nn.Module:
        return Transformation(
            channels,
            num_levels,
            csc=csc,
            residual_block=True,
            weight_norm=False,
            dropout=0.0,
            output_norm=False,
        )

    return _csc(name, params, macs, make)


def _neck(name: str, params: int, macs: int, neck: Callable[[int], Neck]) -> Row:
    def cost(channels: int, height: int, width: int) -> Cost:
        return neck_cost(lambda: neck(channels), height, width)

    return Row(name, Cost(params, macs), cost)


def _mdeq(name: str, params: int, macs: int, expansion: int) -> Row:
    def cost(channels: int, height: int, width: int) -> Cost:
        def make() -> nn.Module:
            return MDEQFunction(channels, 5, expansion=expansion, groups=8, weight_norm=False, dropout=0.0)

        return block_cost(make, channels, height, width, inputs=2)

    return Row(name, Cost(params, macs), cost)


def _shared_pyramid(channels: int, num_levels: int) -> nn.Module:
    return PyramidConv(channels, num_levels, share=True)


def _full_bifpn(channels: int, num_levels: int) -> nn.Module:
    return BiFPNLayer(channels, num_levels, separable=False)


def _seven(csc: CrossScale, channels: int, num_levels: int) -> nn.Module:
    return nn.Sequential(*[csc(channels, num_levels) for _ in range(7)])
