"""A run's curves, from the metrics.csv that Lightning's CSVLogger writes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from ifpn.plots.style import BLUE, FAINT, GREEN, INK, LINES, ORANGE, RED, beside, figure, say

_SOLVER = (
    ("solver/forward_residual", "of P*", "-", BLUE),
    ("solver/backward_residual", "of its gradient", "-", ORANGE),
    ("solver/spectral_radius", "spectral radius", "s", GREEN),
)
_FEW_POINTS = 20  # below, every value has a mark: one alone would not be seen as a line
_AP = (("val/AP", "AP", BLUE), ("val/AP50", "AP50", ORANGE), ("val/AP75", "AP75", GREEN))


@dataclass(frozen=True)
class Curve:
    """One column over the steps at which it was logged."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    def smoothed(self) -> NDArray[np.float64]:
        """Mean over a window of a thirtieth of the run, shorter at both ends, non-finite values left out."""
        half = len(self.values) // 60
        good = np.isfinite(self.values)
        kernel = np.ones(2 * half + 1)
        total = np.convolve(np.where(good, self.values, 0.0), kernel, mode="same")
        count = np.convolve(good.astype(float), kernel, mode="same")
        mean: NDArray[np.float64] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        return mean


def read_curves(metrics_csv: str | Path) -> dict[str, Curve]:
    """Columns of a metrics.csv; empty cells mean "not logged at this step". Texts are skipped.

    Raises:
        ValueError: the file cannot be read or has no column "step".
    """
    file = Path(metrics_csv).expanduser()
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
    except OSError as error:
        raise ValueError(f"metrics file {file} cannot be read: {error.strerror}") from error
    if rows and "step" not in rows[0]:
        raise ValueError(f"metrics file {file} has no column 'step'; it has {', '.join(rows[0])}")
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        step = _number(row["step"])
        for name, cell in row.items():
            value = _number(cell)
            if step is not None and value is not None and name not in ("step", "epoch"):
                points.setdefault(name, []).append((step, value))
    return {name: Curve(*np.array(sorted(pairs, key=lambda p: p[0])).T) for name, pairs in points.items()}


def draw_curves(metrics_csv: str | Path, path: str | Path, *, title: str = "Training") -> None:
    """Losses, AP, the solver and the learning rate over the steps; a missing column leaves its panel with a sentence.

    Reads `train/loss` and other `train/*loss*` columns, `val/AP`, `val/AP50`, `val/AP75`, `solver/forward_residual`,
    `solver/backward_residual`, `solver/spectral_radius`, `solver/unrolled`, and a column named `lr`, `lr-...` or
    `.../lr`.
    """
    # Rows are numbered from 0: the row of step 1 is 0.
    curves = {name: Curve(curve.steps + 1, curve.values) for name, curve in read_curves(metrics_csv).items()}
    short = max((len(curve.steps) for curve in curves.values()), default=0) <= _FEW_POINTS
    with figure(15, 8.6, path) as drawing:
        drawing.suptitle(title, x=0.012, ha="left", fontsize=15, fontweight="bold")
        (losses, precision), (solver, rate) = drawing.subplots(2, 2)
        _draw_losses(losses, curves)
        _draw_ap(precision, curves)
        _draw_solver(solver, curves)
        _draw_rate(rate, curves)
        for axes in (losses, precision, solver, rate):
            axes.set_xlabel("optimiser step")
            if axes.lines:
                _whole_steps(axes)
                for line in axes.lines if short else ():
                    line.set_marker("o" if line.get_marker() == "None" and len(line.get_xdata()) else line.get_marker())
                    line.set_markersize(4)
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _whole_steps(axes: Axes) -> None:
    """Ticks at whole steps; a run of one step is not stretched over a hundredth of it."""
    first, last = axes.dataLim.intervalx
    if last - first < 2:
        axes.set_xlim(first - 1, last + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_losses(axes: Axes, curves: dict[str, Curve]) -> None:
    losses = {
        name: curve
        for name, curve in curves.items()
        if name.startswith("train/") and "loss" in name and not name.endswith("_epoch")
    }
    axes.set_title("loss")
    if not losses:
        say(axes, "no training loss in the metrics file")
        return
    total = next((name for name in ("train/loss", "train/loss_step") if name in losses), None)
    highest = 0.0
    parts = [name for name in losses if name != total]
    for name, color in zip(parts, LINES * (1 + len(parts) // len(LINES)), strict=False):
        axes.plot(losses[name].steps, losses[name].smoothed(), color=color, linewidth=1.4, label=_short(name))
        highest = max(highest, _highest(losses[name].smoothed()))
    if total is not None:
        curve = losses[total]
        axes.plot(curve.steps, curve.values, color=INK, alpha=0.35, linewidth=0.9)
        axes.plot(curve.steps, curve.smoothed(), color=INK, linewidth=2.2, label="total (smoothed)")
        highest = max(highest, _highest(curve.smoothed()))
        broken = ~np.isfinite(curve.values)
        if broken.any():
            axes.plot(
                curve.steps[broken],
                np.zeros(broken.sum()),
                "x",
                color=RED,
                label=f"not finite ({broken.sum()} x)",
            )
    axes.set_ylim(0, 1.12 * highest or 1.0)
    beside(axes)


def _draw_ap(axes: Axes, curves: dict[str, Curve]) -> None:
    axes.set_title("average precision on the validation set")
    highest = 0.0
    for name, label, color in _AP:
        if name not in curves:
            continue
        values = np.where(curves[name].values < 0, np.nan, curves[name].values)
        if not np.isfinite(values).any():
            continue
        axes.plot(curves[name].steps, values, "o-", color=color, markersize=4, label=f"{label}  {values[-1]:.3f}")
        highest = max(highest, _highest(values))
    if not axes.lines:
        say(axes, "no validation in this run")
        return
    axes.set_ylim(0, min(1.02, 1.12 * highest) or 1.0)
    beside(axes, title="last value", alignment="left")


def _draw_solver(axes: Axes, curves: dict[str, Curve]) -> None:
    axes.set_title("the solver: residuals, and spectral radius of G at P*")
    unrolled = curves.get("solver/unrolled")
    if unrolled is not None and (unrolled.values > 0).any():
        axes.axvspan(0, unrolled.steps[unrolled.values > 0].max(), color=FAINT, alpha=0.35, label="warm-up: unrolled")
    for name, label, style, color in _SOLVER:
        if name in curves:
            values = np.where(curves[name].values > 0, curves[name].values, np.nan)
            axes.plot(curves[name].steps, values, style, color=color, markersize=4, label=label)
    if not axes.lines:
        say(axes, "this neck solves no fixed point")
        return
    axes.set_yscale("log")
    axes.axhline(1, color=FAINT, linewidth=0.8)
    beside(axes)


def _draw_rate(axes: Axes, curves: dict[str, Curve]) -> None:
    axes.set_title("learning rate")
    rates = [name for name in curves if name == "lr" or name.startswith("lr-") or name.endswith("/lr")]
    if not rates:
        say(axes, "no learning rate was logged: the run is shorter than trainer.log_every_n_steps")
        return
    # Parameter groups that differ in weight decay alone have one rate: one line.
    rates = [a for i, a in enumerate(rates) if not any(_same(curves[a], curves[b]) for b in rates[:i])]
    for name, color in zip(rates[: len(LINES)], LINES, strict=False):
        axes.plot(curves[name].steps, curves[name].values, color=color, label=name)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter("{x:g}")
    if len(rates) > 1:
        beside(axes)
    axes.axhline(0, color=FAINT, linewidth=0.8)


def _same(a: Curve, b: Curve) -> bool:
    return np.array_equal(a.steps, b.steps) and np.array_equal(a.values, b.values)


def _number(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except (TypeError, ValueError):
        return None


def _highest(values: NDArray[np.float64]) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0


def _short(name: str) -> str:
    return name.removeprefix("train/").removesuffix("_step").removeprefix("loss_").replace("_", " ")
