"""Pictures of `equilibria`: AP against evaluations, gradient against products, spectral radius over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ifpn.plots.curves import Curve
from ifpn.plots.style import BLUE, FAINT, GREEN, INK, LINES, ORANGE, RED, figure, say
from reproduce.equilibria import AtBudget, GradientErrors


def draw_evaluations(found: Sequence[AtBudget], trained: tuple[int, int], path: str | Path) -> None:
    """AP and residual against evaluations at test time.

    trained: (train_evals, test_evals) of the checkpoint, drawn as vertical lines.
    """
    evals = [one.evals for one in found]
    with figure(12.4, 4.8, path) as drawing:
        drawing.suptitle("How many evaluations does the test need?", x=0.012, ha="left", fontsize=15, fontweight="bold")
        left, right = drawing.subplots(1, 2)
        left.set_title("average precision, less its last value")
        for name, color, values in (
            ("AP", BLUE, [one.ap for one in found]),
            ("AP50", ORANGE, [one.ap50 for one in found]),
        ):
            shown = np.array([100 * v if v >= 0 else np.nan for v in values])
            label = f"{name}, {shown[-1]:.1f} with {evals[-1]}"
            left.plot(evals, shown - shown[-1], "o-", color=color, markersize=4.5, label=label)
        below, above = left.get_ylim()
        left.set_ylim(min(below, -0.5), max(above, 0.5))  # less than half a point is not worth a slope
        left.set_ylabel("percentage points")
        right.set_title("residual of the state found")
        low, middle, high = np.array([np.percentile(_finite(one.residual), [10, 50, 90]) for one in found]).T
        right.fill_between(evals, low, high, color=BLUE, alpha=0.18, linewidth=0, label="10-90 % of images")
        right.plot(evals, middle, "o-", color=BLUE, markersize=4.5, label=f"median of {len(found[0].residual)} images")
        right.set_yscale("log")
        right.set_ylabel("‖G(P + B) - P‖ / ‖G(P + B)‖")
        for axes in (left, right):
            for value, name, style in _budgets(*trained):
                axes.axvline(value, color=FAINT, linestyle=style, linewidth=1.4, label=f"{value} {name}")
            axes.set_xlabel("evaluations of G")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend(loc="lower right" if axes is left else "upper right")


def _budgets(train: int, test: int) -> list[tuple[int, str, str]]:
    """(evaluations, what they are, line style)."""
    if train == test:
        return [(train, "in training and at test time", "--")]
    return [(train, "in training", ":"), (test, "at test time", "--")]


def draw_gradients(found: Sequence[GradientErrors], path: str | Path) -> None:
    """Relative error of each backward against its budget, a panel per state."""
    with figure(6.2 * len(found) + 1.6, 5.0, path) as drawing:
        drawing.suptitle("How good is the gradient?", x=0.012, ha="left", fontsize=15, fontweight="bold")
        panels = drawing.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axes, one in zip(panels, found, strict=True):
            axes.set_title(f"{one.state} (residual {one.residual:.0e})", fontsize=11)
            for i, (name, points) in enumerate(one.errors.items()):
                budgets, errors = zip(*points, strict=True)
                if name == "one step":
                    axes.axhline(errors[0], color=INK, linestyle=":", linewidth=1.4, label=name)
                else:
                    # Thinner from line to line: methods often agree, and none may hide another.
                    marker, color = "osD^vP"[i % 6], LINES[i % len(LINES)]
                    width = max(1.4, 4.6 - 0.8 * i)
                    axes.plot(budgets, errors, color=color, marker=marker, markersize=5, linewidth=width, label=name)
            axes.set_yscale("log")
            # Below float32's rounding a method only agrees with the reference in its rounding errors.
            axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-7))
            axes.set_xlabel("vector-Jacobian products (unrolled, phantom: steps)")
            axes.set_ylabel("relative error in G's parameters")
            axes.tick_params(labelleft=True)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", title="backward")


def draw_spectrum(curves: Mapping[str, Curve], points: Sequence[tuple[int, list[float]]], path: str | Path) -> None:
    """Spectral radius and residuals over training.

    curves: of metrics.csv; `solver/spectral_radius` is drawn where it was logged. points: (step, radius per image)
    measured on checkpoints.
    """
    with figure(12.4, 4.8, path) as drawing:
        drawing.suptitle("Does G stay a contraction?", x=0.012, ha="left", fontsize=15, fontweight="bold")
        left, right = drawing.subplots(1, 2)
        _radius(left, curves.get("solver/spectral_radius"), points)
        right.set_title("residual of the solver")
        names = {
            "solver/forward_residual": ("forward, training", BLUE),
            "solver/test_residual": ("forward, test", GREEN),
            "solver/backward_residual": ("backward", ORANGE),
        }
        for name, (label, color) in names.items():
            if name in curves:
                _line(right, curves[name], color, label)
        if right.lines:
            right.set_yscale("log")
            right.set_xlim(left=0)
            right.set_xlabel("optimiser step")
            right.legend(loc="best")
        else:
            say(right, "no residual in the metrics file")


def _radius(axes: Axes, curve: Curve | None, points: Sequence[tuple[int, list[float]]]) -> None:
    axes.set_title("spectral radius of ∂G/∂P")
    if curve is not None:
        _line(axes, curve, BLUE, "during training")
    if points:
        steps = [step for step, _ in points]
        low, middle, high = np.array([np.percentile(r, [10, 50, 90]) for _, r in points]).T
        axes.errorbar(
            steps, middle, (middle - low, high - middle), fmt="o", color=ORANGE, capsize=4, label="of checkpoints"
        )
    if curve is None and not points:
        say(axes, "no solver/spectral_radius in the metrics file, and no checkpoint")
        return
    axes.axhline(1, color=RED, linestyle="--", linewidth=1.4, label="1: plain iteration stops converging")
    axes.set_ylim(0, max(1.15, axes.get_ylim()[1]))
    axes.set_xlim(left=0)
    axes.set_xlabel("optimiser step")
    axes.legend(loc="best")


def _line(axes: Axes, curve: Curve, color: str, label: str) -> None:
    """A curve of few points is its points."""
    marker = "o" if len(curve.steps) <= 30 else ""
    axes.plot(curve.steps, curve.values, color=color, linewidth=1.6, marker=marker, markersize=4, label=label)


def _finite(values: Sequence[float]) -> list[float]:
    return [v for v in values if np.isfinite(v)] or [float("nan")]
