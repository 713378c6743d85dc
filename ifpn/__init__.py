"""Implicit feature pyramids for object detection.

from ifpn import ImplicitFPN        # a neck: drops into torchvision's detectors in place of FeaturePyramidNetwork
from ifpn.solvers import fixed_point  # z* = f(z*), differentiable, for any f
detector = ifpn.load("best.ckpt")   # a trained detector
found = detector("photo.jpg")       # found.boxes, .scores, .labels, .names, .draw()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ifpn.necks import ImplicitFPN
    from ifpn.predictor import Predictor, load
    from ifpn.solvers import fixed_point

__version__ = "0.1.0"
__all__ = ["ImplicitFPN", "Predictor", "fixed_point", "load"]

# Imported on first use: `python train.py --help` must not wait for torch.
_HOME = {
    "ImplicitFPN": "ifpn.necks",
    "Predictor": "ifpn.predictor",
    "fixed_point": "ifpn.solvers",
    "load": "ifpn.predictor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ifpn' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
