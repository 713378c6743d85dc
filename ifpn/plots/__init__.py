"""Pictures: samples with boxes, training curves, the solver's convergence, evaluation, data sets."""

from ifpn.plots.convergence import draw_convergence
from ifpn.plots.curves import draw_curves
from ifpn.plots.samples import draw_detections, draw_samples

__all__ = ["draw_convergence", "draw_curves", "draw_detections", "draw_samples"]
