"""A sweep as a picture: differences with their intervals, and AP against what it costs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from matplotlib.axes import Axes

from ifpn.plots.style import BLUE, FAINT, INK, LINES, ORANGE, figure, say


class Interval(Protocol):
    """A difference that knows its mean and its intervals: `ifpn.evaluation.paired.PairedDifference`."""

    @property
    def mean(self) -> float:
        """Mean of the paired differences."""
        ...

    @property
    def n(self) -> int:
        """Number of pairs."""
        ...

    def interval(self, confidence: float, /) -> tuple[float, float] | None:
        """Two-sided interval; None for one pair."""
        ...


class Difference(Protocol):
    """What `ifpn report` knows of a contrast."""

    @property
    def name(self) -> str:
        """What the difference is called."""
        ...

    @property
    def metric(self) -> str:
        """Which of COCO's numbers."""
        ...

    @property
    def over_seeds(self) -> Interval | None:
        """The difference over the seeds of both rows; None without any."""
        ...

    @property
    def over_images(self) -> tuple[float, float] | None:
        """The bootstrap's interval over images, in points; None without predictions."""
        ...


class Rows(Protocol):
    """Runs that differ in the seed alone: `ifpn.runs.sweep.Row`."""

    @property
    def name(self) -> str:
        """What the row is called."""
        ...

    @property
    def is_recorded(self) -> bool:
        """Whether its seconds may be those of several machines."""
        ...

    def values(self, metric: str, /) -> list[float]:
        """The metric of every run."""
        ...

    def cost(self, *path: str) -> float | None:
        """The median of a cost over the runs, by its path in result.json; None where it was not measured."""
        ...


def draw_comparison(rows: Sequence[Rows], contrasts: Sequence[Difference], path: str | Path) -> None:
    """Differences in AP (points, intervals over seeds and images); AP against seconds per step and against memory.

    Instead of the seconds, which compare only where all runs were timed together, recorded rows show multiply-adds.

    Args:
        rows: the rows of a sweep.
        contrasts: their differences; those of a metric other than AP are left to the table.
        path: the PNG to write.
    """
    shown = [c for c in contrasts if c.metric == "AP" and c.over_seeds is not None]
    height = max(4.2, 1.6 + 0.5 * len(shown), 1.2 + 0.3 * len(rows))
    with figure(15.5, height, path) as drawing:
        left, middle, right = drawing.subplots(1, 3, width_ratios=[1.3, 1, 1])
        _draw_differences(left, shown)
        if any(row.is_recorded for row in rows):
            _draw_cost(middle, rows, ("multiply_adds",), "multiply-adds in GMAC per image at test", 1e-9)
        else:
            _draw_cost(middle, rows, ("seconds_per_step",), "seconds per training step")
        _draw_cost(right, rows, ("peak_memory_mib",), "peak memory in MiB")
        if right.get_legend_handles_labels()[0]:
            right.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))


def _draw_differences(axes: Axes, shown: Sequence[Difference]) -> None:
    axes.set_title("Paired differences in AP")
    if not shown:
        say(axes, "no pair of rows with a common seed")
        return
    for place, one in enumerate(reversed(shown)):
        found = one.over_seeds
        assert found is not None
        for level, width in ((0.99, 1.5), (0.95, 4.0)):
            ends = found.interval(level)
            if ends is not None:
                axes.plot(ends, [place + 0.12] * 2, color=BLUE, linewidth=width, solid_capstyle="butt")
        if one.over_images is not None:
            axes.plot(one.over_images, [place - 0.12] * 2, color=ORANGE, linewidth=4.0, solid_capstyle="butt")
        axes.plot([found.mean], [place + 0.12], "o", color=INK, markersize=5)
    axes.axvline(0.0, color=FAINT, linewidth=1.0)
    axes.set_yticks(range(len(shown)), [f"{c.name} (n = {c.over_seeds.n})" for c in reversed(shown) if c.over_seeds])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("AP; blue: 95 % (thin 99 %) over seeds, orange: 95 % over images")


def _draw_cost(axes: Axes, rows: Sequence[Rows], path: tuple[str, ...], label: str, unit: float = 1.0) -> None:
    axes.set_title(f"AP against {label.split(' in ')[0]}")
    axes.set_xlabel(label)
    axes.set_ylabel("AP")
    points = [(i, row, row.cost(*path), row.values("AP")) for i, row in enumerate(rows)]
    known = [(i, row, unit * cost, values) for i, row, cost, values in points if cost is not None and values]
    if not known:
        say(axes, f"no run measured its {label}")
    for i, row, cost, values in known:
        spread = statistics.stdev(values) if len(values) > 1 else None
        marker = "osD^vP"[i // len(LINES) % 6]
        look: dict[str, Any] = {"fmt": marker, "color": LINES[i % len(LINES)], "label": row.name}
        axes.errorbar([cost], [statistics.fmean(values)], yerr=spread, **look)
