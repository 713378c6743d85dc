"""One look for all pictures: colours, fonts and sizes, without touching matplotlib's global settings."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ifpn.plots.text import families, no_weights_missed

INK = "#22272e"
FAINT = "#8b949e"
BLUE, ORANGE, GREEN, RED, PURPLE = "#2f6fde", "#e8710a", "#1a9850", "#d6293e", "#8250df"
LINES = (BLUE, ORANGE, GREEN, PURPLE, "#0e8a9c", "#b5651d", "#c2478e", "#6b7b0e")

# Twelve colours that stay apart on photographs, in an order that keeps neighbours unlike
_CLASS_COLORS = (
    (255, 87, 51),
    (46, 134, 255),
    (52, 199, 89),
    (255, 196, 0),
    (191, 90, 242),
    (0, 199, 190),
    (255, 105, 180),
    (164, 120, 72),
    (140, 212, 20),
    (94, 92, 230),
    (255, 149, 80),
    (110, 190, 255),
)

_SETTINGS = {
    "figure.facecolor": "white",
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d8dee4",
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": True,
    "legend.framealpha": 0.8,
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 2.0,
}


@contextmanager
def figure(width: float, height: float, path: str | Path, texts: Iterable[str] = ()) -> Iterator[Figure]:
    """A figure of ``width`` x ``height`` inches (110 pixels each), written to ``path`` at the end.

    ``texts``: names whose letters it has to show.
    """
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    with no_weights_missed(), matplotlib.rc_context({**_SETTINGS, "font.family": families(texts)}):
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing
        drawing.savefig(target)


def say(axes: Axes, text: str) -> None:
    """Put a sentence where the data would be."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT, wrap=True)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)


def beside(axes: Axes, **settings: Any) -> None:
    """A legend right of the panel, where it covers no data."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, **settings)


def class_color(label: int) -> tuple[int, int, int]:
    """A colour (R, G, B in 0..255) for each class: twelve chosen ones, then others spread over the hues."""
    if label < len(_CLASS_COLORS):
        return _CLASS_COLORS[label]
    hue = (label * 0.61803398875) % 1.0  # the golden ratio never repeats a hue
    red, green, blue = colorsys.hls_to_rgb(hue, 0.45 + 0.2 * (label % 2), 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)
