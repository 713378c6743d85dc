"""Cross-scale blocks: a list of levels (N, C, H_l, W_l), fine to coarse, in; levels of the same shapes out.

The same block serves a stack of blocks with own weights, an unrolled loop and the implicit G. Each is built
as `block(channels, num_levels, **options)`.
"""

from ifpn.csc.bifpn import BiFPNLayer
from ifpn.csc.dense import DenseFusion
from ifpn.csc.nasfpn import NASFPNCell
from ifpn.csc.none import NoFusion
from ifpn.csc.pyramid import PyramidConv
from ifpn.layers.deform import DeformableConv

__all__ = ["BiFPNLayer", "DeformableConv", "DenseFusion", "NASFPNCell", "NoFusion", "PyramidConv"]
