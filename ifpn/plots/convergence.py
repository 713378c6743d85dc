"""How the solver comes to rest: relative residual against evaluations, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from ifpn.plots.style import BLUE, FAINT, INK, ORANGE, RED, figure, say

Trace = Tensor | NDArray[np.float64] | Sequence[Sequence[float]]


def draw_convergence(
    forward_trace: Trace,
    backward_trace: Trace | None,
    path: str | Path,
    *,
    title: str = "Does the solver reach the fixed point?",
) -> None:
    """One panel per solve, forward and backward: median and 10-90 % band over the samples, on a log scale.

    Args:
        forward_trace: (evaluations, B) relative residual ||f(z) - z|| / ||f(z)|| of every sample at every
            evaluation.
        backward_trace: (vector-Jacobian products, B), or None if no system was solved for the gradient.
        path: the PNG to write.
        title: stands above the panels.

    A solver returns its best state, so the dotted line stands at the median of each sample's lowest residual.
    """
    sides = [(forward_trace, "forward: z = f(z)", "evaluations of f", "‖f(z) - z‖ / ‖f(z)‖", BLUE)]
    if backward_trace is not None:
        products = "vector-Jacobian products"
        sides.append((backward_trace, "backward: v = Jᵀv + ∂L/∂z", products, "of the linear system", ORANGE))
    with figure(6.4 * len(sides), 4.8, path) as drawing:
        drawing.suptitle(title, x=0.015, ha="left", fontsize=15, fontweight="bold")
        panels = drawing.subplots(1, len(sides), sharey=True, squeeze=False)[0]
        for axes, (trace, name, unit, formula, color) in zip(panels, sides, strict=True):
            _draw(axes, _array(trace), name, unit, color)
            axes.set_ylabel(f"relative residual {formula}")
            axes.tick_params(labelleft=True)


def _array(trace: Trace) -> NDArray[np.float64]:
    values = trace.detach().to("cpu", torch.float64).numpy() if isinstance(trace, Tensor) else np.asarray(trace, float)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"a trace has the shape (evaluations, samples), none of them 0; got {values.shape}")
    return values


def _draw(axes: Axes, trace: NDArray[np.float64], title: str, unit: str, color: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(unit)
    # a residual of exactly zero has no place on a log scale, a broken sample none on any
    values = np.where(np.isfinite(trace) & (trace > 0), trace, np.nan)
    kept = np.flatnonzero(np.isfinite(values).any(axis=1))
    if not kept.size:
        say(axes, "no finite residual")
        return
    counts = 1 + kept
    low, middle, high = np.nanpercentile(values[kept], [10, 50, 90], axis=1)
    samples = trace.shape[1]
    if samples > 1:
        axes.fill_between(counts, low, high, color=color, alpha=0.18, linewidth=0, label="10-90 % of samples")
    axes.plot(
        counts,
        middle,
        "o-",
        color=color,
        markersize=4.5,
        label=f"median of {samples} samples" if samples > 1 else "sample",
    )
    finite = np.isfinite(values).any(axis=0)
    returned = float(np.median(np.nanmin(values[:, finite], axis=0)))
    budget = len(trace)
    axes.set_yscale("log")
    axes.axhline(returned, color=INK, linestyle=":", linewidth=1.4, label=f"returned: {returned:.2g}")
    axes.axvline(budget, color=FAINT, linestyle="--", linewidth=1.4, label=f"budget: {budget}")
    broken = int((~np.isfinite(trace)).any(axis=0).sum())
    if broken:
        axes.plot([], [], "x", color=RED, label=f"not finite: {broken} of {samples} samples")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, budget + 0.5)
    axes.legend(loc="best")
