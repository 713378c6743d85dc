"""Where the precision comes from: precision-recall curves, sizes, and which class is taken for which."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ifpn.evaluation.confusion import ConfusionMatrix
from ifpn.evaluation.operating import OperatingPoints
from ifpn.evaluation.result import SIZE_BINS, CocoResult, format_score
from ifpn.plots.style import BLUE, GREEN, INK, LINES, ORANGE, beside, figure, say
from ifpn.plots.text import class_name, class_names

_RECALLS = np.linspace(0.0, 1.0, 101)
_IOUS = np.linspace(0.5, 0.95, 10)
_MOST_CLASSES = len(LINES)
_MOST_NUMBERS = 15  # classes above which a cell is too small for its number


def draw_precision_recall(result: CocoResult, path: str | Path) -> None:
    """Mean over the classes at each IoU threshold, and each class at IoU .50 (of many: best and worst)."""
    with figure(15, 5.0, path, result.per_class) as drawing:
        left, right = drawing.subplots(1, 2)
        precision = np.where(result.precision < 0, np.nan, result.precision)
        known = np.asarray(np.isfinite(precision).any(axis=(0, 1)))
        left.set_title("mean over classes, by IoU threshold")
        if known.any():
            mean = np.nanmean(precision[:, :, known], axis=2)
            for curve, iou, shade in zip(mean, _IOUS, np.linspace(0.95, 0.3, len(_IOUS)), strict=True):
                label = f"IoU {iou:.2f}  AP {curve.mean():.3f}"
                left.plot(_RECALLS, curve, color=colormaps["Blues"](shade), label=label)
            beside(left, fontsize=8.5)
        else:
            say(left, "no box in the ground truth")
        _draw_classes(right, result, precision, known)
        for axes in (left, right):
            axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="recall", ylabel="precision")


def _draw_classes(axes: Axes, result: CocoResult, precision: NDArray[np.float64], known: NDArray[np.bool_]) -> None:
    names = list(result.per_class)
    order = sorted(np.flatnonzero(known), key=lambda k: -result.per_class[names[k]]["AP50"])
    title = "each class at IoU 0.50"
    if len(order) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        title += f" ({half} best and {half} worst of {len(order)})"
        order = order[:half] + order[-half:]
    axes.set_title(title)
    if not order:
        say(axes, "no box in the ground truth")
        return
    for k, color in zip(order, LINES, strict=False):
        label = f"{class_name(names, int(k))}  AP50 {result.per_class[names[k]]['AP50']:.3f}"
        axes.plot(_RECALLS, precision[0, :, k], color=color, label=label)
    beside(axes, fontsize=8.5)


def draw_sizes(result: CocoResult, path: str | Path) -> None:
    """AP, AP50 and AR100 for small, medium and large boxes, with how many boxes stand behind each bar."""
    with figure(8.5, 4.6, path) as drawing:
        axes = drawing.subplots()
        axes.set_title("precision and recall by size of the object")
        for shift, (key, color) in enumerate((("AP", BLUE), ("AP50", ORANGE), ("AR100", GREEN))):
            values = [result.per_size[name][key] for name in SIZE_BINS]
            places = np.arange(len(values)) + (shift - 1) * 0.27
            axes.bar(places, [max(value, 0.0) for value in values], width=0.25, color=color, label=key)
            for x, value in zip(places, values, strict=True):
                axes.text(x, max(value, 0.0) + 0.012, format_score(value), ha="center", fontsize=9)
        areas = ("area < 32²", "32² to 96²", "> 96² pixels")
        axes.set_xticks(
            range(len(SIZE_BINS)),
            [
                f"{name}\n{area}\n{result.per_size[name]['boxes']:.0f} boxes"
                for name, area in zip(SIZE_BINS, areas, strict=True)
            ],
        )
        axes.set_ylim(0, 1.1)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper left", ncols=3)


def worst_pairs(matrix: ConfusionMatrix, count: int) -> list[str]:
    """`12 x  bus taken for truck`: the most frequent confusions of two classes, the most frequent first."""
    wrong = matrix.counts[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [np.unravel_index(i, wrong.shape) for i in order]
    names = matrix.class_names
    found = [f"{wrong[i, j]} x  {names[i]} taken for {names[j]}" for i, j in pairs if wrong[i, j]]
    return found or ["no class was taken for another"]


def draw_operating_points(points: OperatingPoints, path: str | Path) -> None:
    """Precision, recall and F1 against the score from which on detections count, at IoU 0.50."""
    with figure(9.6, 4.6, path) as drawing:
        axes = drawing.subplots()
        axes.set_title("precision and recall against the score threshold (IoU 0.50)")
        axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="detections with at least this score", ylabel="share")
        if not len(points.scores):
            say(axes, "nothing was detected" if points.truths else "no box in the ground truth")
            return
        for values, label, color in (
            (points.precision, "precision", BLUE),
            (points.recall, "recall", ORANGE),
            (points.f1, "F1", GREEN),
        ):
            axes.plot(points.scores, values, color=color, label=label, drawstyle="steps-post")
        best = points.best
        title = "nothing was found" if best is None else f"highest F1 {points.f1.max():.3f} at {best:.2f}"
        if best is not None:
            axes.axvline(best, color=INK, linewidth=1.0, linestyle=":")
        beside(axes, title=title, alignment="left")


def draw_confusion(matrix: ConfusionMatrix, path: str | Path) -> None:
    """The matrix in shares of each true class; the last row holds detections of nothing at all.

    Many classes are more than an eye can search: beside them stand the ten most frequent confusions.
    """
    matrix = replace(matrix, class_names=tuple(class_names(matrix.class_names)))
    count = len(matrix.class_names)
    side = min(16.0, 4.5 + 0.42 * (count + 1))
    total = matrix.counts.sum(axis=1, keepdims=True)
    share = np.divide(matrix.counts, total, out=np.zeros(matrix.counts.shape), where=total > 0)
    listed = count > _MOST_NUMBERS
    with figure(side + (5.2 if listed else 1.2), side, path, matrix.class_names) as drawing:
        axes, beside = drawing.subplots(1, 2, width_ratios=[3, 1]) if listed else (drawing.subplots(), None)
        if beside is not None:
            beside.set_axis_off()
            beside.text(
                0, 1, "most frequent confusions\n\n" + "\n".join(worst_pairs(matrix, 10)), va="top", fontsize=10
            )
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        limits = f"IoU >= {matrix.iou_threshold:g}, score >= {matrix.score_threshold:g}"
        none = "" if matrix.counts[:, :-1].any() else ": nothing was predicted"
        axes.set_title(f"predicted class of each true class\n{limits}{none}")
        small = max(7.0, min(10.0, 420 / (count + 1)))
        axes.set_xticks(
            range(count + 1),
            [*matrix.class_names, "missed"],
            rotation=90 if count > 6 else 30,
            fontsize=small,
        )
        axes.set_yticks(range(count + 1), [*matrix.class_names, "background"], fontsize=small)
        axes.set(xlabel="predicted", ylabel="true")
        axes.grid(False)
        if count <= _MOST_NUMBERS:
            for i, j in np.ndindex(*matrix.counts.shape):
                if matrix.counts[i, j]:
                    color = "white" if share[i, j] > 0.55 else INK
                    axes.text(j, i, str(matrix.counts[i, j]), ha="center", va="center", color=color, fontsize=9)
        drawing.colorbar(image, ax=axes, shrink=0.6, label="share of the row")
