"""The names that `ifpn.detectors.anchors` had in 0.1; until 0.3."""

from ifpn.detectors.anchors import AnchorGrid as PriorGrid
from ifpn.detectors.anchors import Anchors as Priors

__all__ = ["PriorGrid", "Priors"]
