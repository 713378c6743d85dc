"""Detections drawn on images: one picture for a user, a page of them for a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ifpn.plots.boxes import LabelledBox, Rectangle, draw_boxes, labelled, to_picture
from ifpn.plots.style import FAINT, INK, class_color
from ifpn.plots.text import class_name, font

Detection = Mapping[str, Tensor]

_PAGE = 1500  # pixels across
_MARGIN, _GAP, _BETWEEN, _TEXT = 24, 10, 30, 13
_LEAST_SIDE = 640  # smaller pictures are enlarged, so that tags can be read


def draw_detections(
    image: Tensor, detection: Detection, class_names: Sequence[str], *, score_threshold: float
) -> Image.Image:
    """One image with its boxes, names and scores.

    Args:
        image: uint8 (3, H, W).
        detection: ``boxes`` (M, 4) xyxy in pixels of ``image``, ``scores`` (M,), ``labels`` (M,).
        class_names: name of each label.
        score_threshold: boxes below are not drawn.

    Returns:
        A picture of the image's size, or enlarged to 640 pixels on its longer side if that is smaller.
    """
    picture = to_picture(image)
    scale = max(1.0, _LEAST_SIDE / max(picture.size))
    picture = _resized(picture, scale)
    items = labelled(detection["boxes"], detection["labels"], detection["scores"], score_threshold)
    draw_boxes(picture, items, class_names, scale=scale, text_size=max(14, round(max(picture.size) / 60)))
    return picture


def draw_batch(
    batch: Tensor,
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[Mapping[str, Tensor]],
    class_names: Sequence[str],
    path: str | Path,
) -> None:
    """A training batch as the network sees it: resized, augmented, padded (grey), with its boxes.

    Args:
        batch: (N, 3, H, W) in 0..1, padding included.
        sizes: (height, width) of each image inside its padding.
        targets: per image `boxes` (M, 4) xyxy in pixels of the batch and `labels` (M,).
        class_names: name of each label.
        path: the picture to write.
    """
    shown = min(len(batch), 8)
    height, width = batch.shape[-2:]
    columns = min(4, shown)
    # Small images are enlarged, so that tags do not cover them.
    scale = min(2.0, (_PAGE - 2 * _MARGIN - (columns - 1) * _GAP) / (columns * width))
    cell = max(1, round(width * scale)), max(1, round(height * scale))
    rows = -(-shown // columns)
    side = 2 * _MARGIN + columns * cell[0] + (columns - 1) * _GAP
    page = Image.new("RGB", (side, 2 * _MARGIN + rows * cell[1] + (rows - 1) * _GAP), "white")
    for i in range(shown):
        image = torch.full_like(batch[i], 0.5)
        h, w = sizes[i]
        image[:, :h, :w] = batch[i, :, :h, :w].clamp(0, 1)
        items = labelled(targets[i]["boxes"], targets[i]["labels"], None, 0.0)
        panel = _panel(_Cell((image * 255).round().to(torch.uint8).cpu(), items), class_names, scale)
        page.paste(panel, (_MARGIN + i % columns * (cell[0] + _GAP), _MARGIN + i // columns * (cell[1] + _GAP)))
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    page.save(target)


@dataclass(frozen=True)
class _Cell:
    image: Tensor
    items: list[LabelledBox]
    note: str = ""


@dataclass(frozen=True)
class Judged:
    """Boxes of one image; those of the truth that nobody found are "missed", detections without a box "false"."""

    truths: list[LabelledBox]
    found: list[LabelledBox]


def judge(truth: Mapping[str, Tensor], found: Detection, score_threshold: float, iou: float = 0.5) -> Judged:
    """Match detections with the truth of their class: best score first, each takes the free box it overlaps most.

    Args:
        truth: `boxes` (M, 4) xyxy and `labels` (M,); `iscrowd` (M,) marks regions in which nothing is false.
        found: `boxes`, `scores`, `labels`.
        score_threshold: detections below are left out.
        iou: overlap from which on a box is found.
    """
    items = labelled(found["boxes"], found["labels"], found["scores"], score_threshold)
    targets = labelled(truth["boxes"], truth["labels"], None, 0.0)
    crowd = truth["iscrowd"].bool().tolist() if "iscrowd" in truth else [False] * len(targets)
    taken: set[int] = set()
    judged = []
    for item in items:
        free = [t.label == item.label and i not in taken for i, t in enumerate(targets)]
        overlaps = [_iou(item.box, t.box) if ok else 0.0 for t, ok in zip(targets, free, strict=True)]
        best = max(range(len(targets)), key=overlaps.__getitem__, default=-1)
        right = best >= 0 and overlaps[best] >= iou
        taken |= {best} if right and not crowd[best] else set()
        judged.append(item if right else replace(item, wrong="false"))
    missed = [t if i in taken or crowd[i] else replace(t, wrong="missed") for i, t in enumerate(targets)]
    return Judged(missed, judged)


def _iou(a: Rectangle, b: Rectangle) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / whole if whole > 0 else 0.0


def _nothing_shown(found: Detection, score_threshold: float) -> str:
    scores = found["scores"]
    return f"none above {score_threshold:g}" + (f"; best {float(scores.max()):.2f}" if len(scores) else "")


def draw_samples(
    images: Sequence[Tensor],
    truths: Sequence[Mapping[str, Tensor]],
    predictions: Sequence[Detection],
    class_names: Sequence[str],
    path: str | Path,
    *,
    score_threshold: float,
) -> None:
    """A page of images 1500 pixels wide, each twice: with the true boxes, and with the predicted ones beside.

    Args:
        images: uint8 (3, H, W) each, of any sizes.
        truths: per image ``boxes`` (M, 4) xyxy pixels and ``labels`` (M,).
        predictions: per image ``boxes``, ``scores``, ``labels``.
        class_names: name of each label.
        path: the PNG to write.
        score_threshold: predicted boxes below are not drawn.
    """
    if not len(images) == len(truths) == len(predictions) or not images:
        raise ValueError(
            f"{len(images)} images, {len(truths)} truths, {len(predictions)} predictions: equal numbers, at least one"
        )
    pairs = [
        (
            _Cell(image, judged.truths),
            _Cell(image, judged.found, "" if judged.found else _nothing_shown(found, score_threshold)),
        )
        for image, found, judged in (
            (image, found, judge(truth, found, score_threshold))
            for image, truth, found in zip(images, truths, predictions, strict=True)
        )
    ]
    columns = min(2, len(pairs))
    width = (_PAGE - 2 * _MARGIN - columns * _GAP - (columns - 1) * _BETWEEN) // (2 * columns)
    legend = _legend(pairs, class_names)
    top = _MARGIN + 34 + legend.height + 26
    ends = [top] * columns  # where the next pair of each column begins
    places: list[tuple[int, int, float]] = []
    for cell, _ in pairs:
        # very tall images would push all others off the page
        scale = min(width / cell.image.shape[2], 1.5 * width / cell.image.shape[1])
        column = ends.index(min(ends))
        places.append((_MARGIN + column * (2 * width + _GAP + _BETWEEN), ends[column], scale))
        ends[column] += round(cell.image.shape[1] * scale) + _GAP
    page = Image.new("RGB", (_PAGE, max(ends) - _GAP + _MARGIN), "white")
    _heading(page, legend, f"boxes with a score of {score_threshold:g} or more; dashed: missed, or false")
    draw = ImageDraw.Draw(page)
    for pair, (x, y, scale) in zip(pairs, places, strict=True):
        for shift, cell, title in zip((0, width + _GAP), pair, ("truth", "prediction"), strict=True):
            page.paste(_panel(cell, class_names, scale), (x + shift, y))
            if y == top:
                draw.text((x + shift, y - 22), title, fill=INK, font=font(15, bold=True))
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    page.save(target)


def _heading(page: Image.Image, legend: Image.Image, note: str) -> None:
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 6), "Truth beside prediction", fill=INK, font=font(22, bold=True))
    draw.text((_PAGE - _MARGIN, _MARGIN + 2), note, fill=FAINT, font=font(14), anchor="ra")
    page.paste(legend, (_MARGIN, _MARGIN + 34))


def _panel(cell: _Cell, class_names: Sequence[str], scale: float) -> Image.Image:
    picture = _resized(to_picture(cell.image), scale)
    draw_boxes(picture, cell.items, class_names, scale=scale, text_size=_TEXT)
    if cell.note:
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 0, draw.textlength(cell.note, font=font(_TEXT)) + 8, _TEXT + 8), fill=(255, 255, 255))
        draw.text((4, 3), cell.note, fill=INK, font=font(_TEXT))
    return picture


def _resized(picture: Image.Image, scale: float) -> Image.Image:
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)


def _legend(pairs: Sequence[tuple[_Cell, _Cell]], class_names: Sequence[str]) -> Image.Image:
    """The colours of the classes on this page, in as many lines as they need."""
    present = sorted({item.label for pair in pairs for cell in pair for item in cell.items})
    canvas = Image.new("RGB", (_PAGE - 2 * _MARGIN, 24 * (1 + len(present))), "white")
    draw = ImageDraw.Draw(canvas)
    x, y = 0, 0
    for label in present:
        name = class_name(class_names, label)
        needed = 22 + round(draw.textlength(name, font=font(14, name))) + 18
        if x and x + needed > canvas.width:
            x, y = 0, y + 24
        draw.rectangle((x, y + 3, x + 14, y + 17), fill=class_color(label), outline=(0, 0, 0))
        draw.text((x + 21, y + 1), name, fill=INK, font=font(14, name))
        x += needed
    return canvas.crop((0, 0, canvas.width, y + 30))
