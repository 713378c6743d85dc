"""Figure 5 of the paper: feature maps of two checkpoints on the same images, and how far each cell can see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from ifpn.plots.style import BLUE, FAINT, INK, LINES, ORANGE, figure
from ifpn.predictor import Predictor
from reproduce.inspect_checkpoint import body_of, level_names, neck_name, network_input
from reproduce.receptive import Field

Array = NDArray[np.float64]
_SHADE = "magma"  # even in brightness: readable in print and without colour vision
_FEW_CELLS = 12
_DECADES = 3  # of a receptive field that are told apart


@dataclass(frozen=True)
class Maps:
    """One image seen by one checkpoint.

    picture: (H, W, 3) in 0..1. levels: a map (H, W) in 0..1 each. cells: how many of the level's lie on the image.
    """

    picture: Array
    levels: dict[str, Array]
    cells: dict[str, tuple[int, int]]


def level_maps(predictor: Predictor, image: Tensor, levels: Sequence[str]) -> Maps:
    """How strongly each cell of the given levels responds to what is in the image.

    The norm over the channels of P(image) - P(blank), where blank is an even image of the image's mean colour: what
    the border and the biases make of any image is not shown. Less its lowest value and divided by its highest, without
    the padding, enlarged to the image, bilinearly where it has twelve cells or more on each side. The paper does not
    say how its maps were made.
    """
    batch, size = network_input(predictor, image)
    blank, _ = network_input(predictor, image.float().mean(dim=(1, 2), keepdim=True).expand_as(image))
    with torch.no_grad():
        body = body_of(predictor)
        pairs = zip(level_names(predictor), body(batch), body(blank), strict=True)
        strength = {name: (seen - empty).double().norm(dim=1, keepdim=True) for name, seen, empty in pairs}
    padded = int(batch.shape[-2]), int(batch.shape[-1])
    # Cells that see padding only would set the scale.
    cells = {
        name: (-(-size[0] * s.shape[-2] // padded[0]), -(-size[1] * s.shape[-1] // padded[1]))
        for name, s in strength.items()
    }
    maps = {name: _enlarged(strength[name], cells[name], padded, size) for name in levels}
    picture = F.interpolate(image[None].float() / 255, size, mode="bilinear", antialias=True)[0]
    return Maps(picture.permute(1, 2, 0).double().clamp(0, 1).numpy(), maps, {name: cells[name] for name in levels})


def _enlarged(strength: Tensor, cells: tuple[int, int], padded: tuple[int, int], size: tuple[int, int]) -> Array:
    inside = strength[..., : cells[0], : cells[1]]
    low, high = inside.min(), inside.max()
    shade = (strength - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)
    # Few cells are shown as cells: smoothed, they would pretend to a resolution that they do not have.
    mode = "nearest-exact" if min(cells) < _FEW_CELLS else "bilinear"
    large = F.interpolate(shade, padded, mode=mode)
    shown: Array = large[0, 0, : size[0], : size[1]].clamp(0, 1).cpu().numpy()
    return shown


def draw_figure5(pairs: Sequence[tuple[Maps, Maps]], names: tuple[str, str], path: str | Path) -> None:
    """A row per image: the image, then for each level the first checkpoint's map and the second's."""
    levels = list(pairs[0][0].levels)
    columns = 1 + 2 * len(levels)
    heights = [pair[0].picture.shape[0] / pair[0].picture.shape[1] for pair in pairs]
    width = 2.1 * columns
    with figure(width, sum(heights) * 2.1 + 1.3, path) as drawing:
        drawing.suptitle(
            f"Feature maps of {names[0]} and {names[1]}", x=0.006, ha="left", fontsize=14, fontweight="bold"
        )
        drawing.supxlabel(
            "brightness: distance of a cell's features from those of a blank image, each map from its lowest value to "
            "its highest", fontsize=10, color=FAINT,
        )  # fmt: skip
        grid = drawing.subplots(len(pairs), columns, squeeze=False, height_ratios=heights)
        for r, (row, (a, b)) in enumerate(zip(grid, pairs, strict=True)):
            _show(row[0], a.picture, None, "" if r else "image", FAINT)
            for i, level in enumerate(levels):
                for k, (one, color) in enumerate(((a, BLUE), (b, ORANGE))):
                    rows, cells = one.cells[level]
                    title = "" if r else f"{names[k]}\n{level}, {rows} x {cells} cells"
                    _show(row[1 + 2 * i + k], one.picture, one.levels[level], title, color)


def _show(axes: Axes, picture: Array, shade: Array | None, title: str, color: str) -> None:
    axes.imshow(picture if shade is None else picture.mean(axis=2), cmap="gray", vmin=0, vmax=1)
    if shade is not None:
        axes.imshow(shade, cmap=_SHADE, vmin=0, vmax=1, alpha=0.68)
    axes.set_title(title, fontsize=9.5, color=INK if shade is None else color, pad=5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_edgecolor(color)


def draw_fields(fields: Sequence[tuple[str, Sequence[Field]]], path: str | Path) -> None:
    """Effective receptive fields: a row per checkpoint, a column per level, and the mass within a distance.

    fields: (name, a field per level) of each checkpoint. All pictures have one scale in pixels and one in colour; what
    no image reaches is grey.
    """
    levels = [f.level for f in fields[0][1]]
    reach = _reach([field for _, row in fields for field in row])
    with figure(3.1 * len(levels) + 5.6, 3.2 * len(fields) + 0.7, path) as drawing:
        drawing.suptitle("Effective receptive field of one cell", x=0.006, ha="left", fontsize=14, fontweight="bold")
        grid = drawing.add_gridspec(len(fields), len(levels) + 1, width_ratios=[1.0] * len(levels) + [1.5])
        curve, panels, shown = drawing.add_subplot(grid[:, -1]), [], None
        for i, (name, row) in enumerate(fields):
            for j, field in enumerate(row):
                axes = drawing.add_subplot(grid[i, j])
                shown = _field(axes, field, reach, f"{name}  {field.level}: half within {field.half:.0f} px")
                axes.tick_params(labelbottom=i == len(fields) - 1, labelleft=j == 0)
                panels.append(axes)
                style = "-" if i else "--"
                curve.plot(
                    field.distances, field.within, style, color=LINES[j % len(LINES)], label=f"{name} {field.level}"
                )
        assert shown is not None  # a checkpoint and a level at least
        bar = drawing.colorbar(shown, ax=panels, location="left", shrink=0.6, aspect=30, pad=0.01)
        bar.set_label("gradient, of its highest value", fontsize=9.5)
        bar.set_ticks(list(range(-_DECADES, 1)), labels=[f"$10^{{{d}}}$" for d in range(-_DECADES, 1)])
        drawing.supxlabel(
            "pixels of the network's input; half of the gradient lies in the solid circle, 90 % in the dotted one",
            fontsize=10, color=FAINT,
        )  # fmt: skip
        curve.set_xlabel("distance from the cell, pixels of the input")
        curve.set_title("share of the gradient within a distance")
        curve.set_ylim(0, 1.02)
        curve.axhline(0.5, color=FAINT, linewidth=0.8)
        curve.legend(loc="lower right")


def _reach(fields: Sequence[Field]) -> tuple[int, int]:
    """How far from the cell, in rows and columns, any of the fields has a value."""
    places = [np.abs(np.argwhere(f.density > 0) - f.density.shape[0] // 2).max(axis=0) for f in fields]
    rows, columns = np.max(places, axis=0)
    return int(rows), int(columns)


def _field(axes: Axes, field: Field, reach: tuple[int, int], title: str) -> AxesImage:
    # In decades: the gradient falls off like a bell and its tails are the question.
    share = field.density / field.density.max()
    shade = np.where(share > 0, np.log10(np.maximum(share, 10.0**-_DECADES)), np.nan)
    half = field.density.shape[0] / 2
    axes.set_facecolor("#a9b1ba")
    shown = axes.imshow(shade, cmap=_SHADE, extent=(-half, half, half, -half), vmin=-_DECADES, vmax=0)
    angle = np.linspace(0, 2 * np.pi, 200)
    for radius, style in ((field.half, "-"), (field.most, ":")):
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), style, color="white", linewidth=1.5)
    axes.set_xlim(-reach[1], reach[1])
    axes.set_ylim(reach[0], -reach[0])
    axes.set_title(title, fontsize=10.5)
    axes.locator_params(nbins=5)
    axes.tick_params(labelsize=8.5)
    axes.grid(False)
    return shown


def describe_pair(a: Predictor, b: Predictor) -> tuple[str, str]:
    """Names for the two checkpoints; with "A", "B" where both have the same kind of neck."""
    first, second = neck_name(a), neck_name(b)
    return (first, second) if first != second else (f"A: {first}", f"B: {second}")
