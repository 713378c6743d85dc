"""Runs as pictures: samples with boxes, training curves, the solver's convergence."""

from ifpn.reports.convergence import draw_convergence
from ifpn.reports.curves import draw_curves
from ifpn.reports.samples import draw_detections, draw_samples

__all__ = ["draw_convergence", "draw_curves", "draw_detections", "draw_samples"]
