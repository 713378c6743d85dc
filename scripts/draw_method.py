"""Draw the figure of the method: a stack of blocks, one block at its fixed point, and a recorded search for it.

python scripts/draw_method.py                  # docs/images/method.png from docs/images/residual.csv
python scripts/draw_method.py --run runs/…     # records the residuals of that run's last training step first
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ifpn.plots.style import BLUE, FAINT, GREEN, INK, ORANGE, figure

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SOFT = {BLUE: "#dce8fb", ORANGE: "#fdebdc", GREEN: "#d9f2e3"}


def box(axes: Axes, x: float, y: float, width: float, text: str, color: str) -> None:
    """A rounded box with its lower left corner at (x, y), 0.62 high."""
    look: dict[str, Any] = {"facecolor": SOFT[color], "edgecolor": color, "linewidth": 1.6}
    axes.add_patch(FancyBboxPatch((x, y), width, 0.62, boxstyle="round,pad=0.02,rounding_size=0.09", **look))
    axes.text(x + width / 2, y + 0.31, text, ha="center", va="center", fontsize=11.5)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0, color: str = INK
) -> None:
    """An arrow between two points; `bend` is matplotlib's arc3 radius."""
    look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 13, "linewidth": 1.5, "color": color}
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0, **look))


def canvas(axes: Axes, title: str, caption: str) -> None:
    """Empty axes of 4 x 5 units with a title above and a caption below."""
    axes.set_xlim(0, 4)
    axes.set_ylim(0, 5)
    axes.set_axis_off()
    axes.set_title(title)
    axes.text(2, 0.1, caption, ha="center", va="center", color=INK, fontsize=10.5)


def draw_stack(axes: Axes) -> None:
    """The pyramid as a stack of blocks with weights of their own."""
    canvas(axes, "A stack of blocks", "T blocks of parameters,\nT blocks of activations")
    box(axes, 1.2, 0.75, 1.6, "backbone C3..C5", BLUE)
    for i, name in enumerate(("block 1", "block 2", "block T")):
        box(axes, 1.2, 1.7 + i * 0.95, 1.6, name, ORANGE)
        arrow(axes, (2, 1.4 + i * 0.95), (2, 1.68 + i * 0.95))
    arrow(axes, (2, 4.25), (2, 4.62))
    axes.text(2, 4.78, "pyramid P3..P7", ha="center", va="center", fontsize=11.5)


def draw_fixed_point(axes: Axes) -> None:
    """One block whose output is its input."""
    canvas(axes, "One block at its fixed point", "one block of parameters,\none block of activations, any depth")
    box(axes, 1.2, 0.75, 1.6, "backbone: B", BLUE)
    box(axes, 1.2, 2.65, 1.6, "G", GREEN)
    axes.text(2, 1.95, "+", ha="center", va="center", fontsize=17)
    arrow(axes, (2, 1.4), (2, 1.78))
    arrow(axes, (2, 2.12), (2, 2.62))
    arrow(axes, (2, 3.3), (2, 4.55))
    axes.plot([2, 3.3, 3.3], [3.8, 3.8, 1.95], color=GREEN, linewidth=1.5)
    arrow(axes, (3.3, 1.95), (2.16, 1.95), color=GREEN)
    axes.text(3.38, 2.9, "P*", color=GREEN, fontsize=12, va="center")
    axes.text(2, 4.78, "P* = G(P* + B)", ha="center", va="center", fontsize=13, fontweight="bold")


def draw_search(axes: Axes, rows: list[dict[str, str]]) -> None:
    """Median and 10-90 % band over the images of one step, against evaluations."""
    axes.set_title("A solver finds it")
    for side, color, label in (("forward", BLUE, "P* itself"), ("backward", ORANGE, "its gradient")):
        lines = [row for row in rows if row["side"] == side]
        if not lines:
            continue
        x = np.array([int(row["evaluation"]) for row in lines])
        low, middle, high = (np.array([float(row[name]) for row in lines]) for name in ("low", "median", "high"))
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        axes.plot(x, middle, "o-", color=color, markersize=4.5, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("evaluations of G (or of its transposed Jacobian)")
    axes.set_ylabel("relative residual")
    axes.legend(loc="upper right")


def record(run: Path) -> list[dict[str, str]]:
    """The residuals of the last training step of a run, from its newest checkpoint."""
    from ifpn.runs.checkpoint import read_checkpoint

    callbacks = read_checkpoint(run / "last.ckpt")["callbacks"]
    traces = next(state["traces"] for name, state in callbacks.items() if name.startswith("SolverMonitor"))
    rows = []
    for side, trace in traces.items():
        quantiles = np.quantile(trace.numpy(), [0.1, 0.5, 0.9], axis=1)
        for number, (low, median, high) in enumerate(quantiles.T, start=1):
            values = {"low": f"{low:.4g}", "median": f"{median:.4g}", "high": f"{high:.4g}"}
            rows.append({"side": side, "evaluation": str(number), **values})
    return rows


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder with last.ckpt")
    arguments = parser.parse_args()
    recorded = IMAGES / "residual.csv"
    if arguments.run is not None:
        rows = record(arguments.run)
        with recorded.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["side", "evaluation", "low", "median", "high"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    with recorded.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with figure(14, 4.9, IMAGES / "method.png") as drawing:
        left, middle, right = drawing.subplots(1, 3, width_ratios=[1, 1.05, 1.5])
        draw_stack(left)
        draw_fixed_point(middle)
        draw_search(right, rows)
        for axes in (left, middle):
            axes.axvline(4, color=FAINT, linewidth=0.5)


if __name__ == "__main__":
    main()
