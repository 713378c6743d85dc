"""Necks: backbone levels C in, pyramid P out, called like `torchvision.ops.FeaturePyramidNetwork`.

`python -m reproduce.neck_costs` prints parameters and multiply-adds.
"""

from ifpn.necks.fpn import FPN
from ifpn.necks.implicit import EquilibriumNeck, ImplicitFPN
from ifpn.necks.mdeq import MDEQNeck
from ifpn.necks.neck import Neck
from ifpn.necks.none import NoFPN
from ifpn.necks.pafpn import PAFPN
from ifpn.necks.stack import StackedFPN
from ifpn.necks.stream import Stream

__all__ = ["FPN", "PAFPN", "EquilibriumNeck", "ImplicitFPN", "MDEQNeck", "Neck", "NoFPN", "StackedFPN", "Stream"]
