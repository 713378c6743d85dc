"""Labelled boxes on a picture, legible also where many objects crowd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw
from torch import Tensor

from ifpn.plots.style import class_color
from ifpn.plots.text import class_name, font

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class LabelledBox:
    """A box (x1, y1, x2, y2) in pixels with its label and, for detections, its score.

    wrong: what is wrong with it, "missed" or "false"; it then has a dashed outline and says so. Empty: nothing.
    """

    box: Rectangle
    label: int
    score: float | None
    wrong: str = ""


def labelled(boxes: Tensor, labels: Tensor, scores: Tensor | None, threshold: float) -> list[LabelledBox]:
    """Boxes (M, 4), labels (M,) and scores (M,) as a list, best score first, below ``threshold`` left out."""
    values = [None] * len(boxes) if scores is None else scores.tolist()
    items = [
        LabelledBox((x1, y1, x2, y2), label, score)
        for (x1, y1, x2, y2), label, score in zip(boxes.tolist(), labels.tolist(), values, strict=True)
        if score is None or score >= threshold
    ]
    return sorted(items, key=lambda item: -(item.score or 0.0))


def to_picture(image: Tensor) -> Image.Image:
    """A uint8 tensor (3, H, W) as a PIL image."""
    if image.ndim != 3 or image.shape[0] != 3 or str(image.dtype) != "torch.uint8":
        raise ValueError(f"expected an image of uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def draw_boxes(
    picture: Image.Image,
    items: Sequence[LabelledBox],
    class_names: Sequence[str],
    *,
    scale: float,
    text_size: int,
) -> None:
    """Draw on ``picture`` in place; box coordinates are multiplied by ``scale`` first.

    Every box is outlined in its class's colour. Tags with name and score are placed best score first, above
    the box or
    inside it, and a tag that would cover an earlier one is left out: the colour still tells the class.
    """
    draw = ImageDraw.Draw(picture)
    width = max(2, round(text_size / 4.5))
    placed: list[Rectangle] = []
    for item in reversed(items):  # the best on top
        box = _scaled(item.box, scale, picture.size)
        if item.wrong:
            _dashed(draw, box, class_color(item.label), width)
            continue
        draw.rectangle(box, outline=(0, 0, 0), width=width + 2)
        draw.rectangle([box[0] + 1, box[1] + 1, *_at_least(box, 1)], outline=class_color(item.label), width=width)
    for item in items:
        name = class_name(class_names, item.label)
        text = name if item.score is None else f"{name} {item.score:.2f}"
        text += f" ({item.wrong})" if item.wrong else ""
        place = _tag_place(draw, text, _scaled(item.box, scale, picture.size), picture.size, text_size, placed)
        if place is None:
            continue
        placed.append(place)
        color = class_color(item.label)
        dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 140
        draw.rectangle(place, fill=color)
        draw.text(
            (place[0] + 3, place[1] + 1),
            text,
            fill=(255, 255, 255) if dark else (0, 0, 0),
            font=font(text_size, text),
        )


def _dashed(draw: ImageDraw.ImageDraw, box: Rectangle, color: tuple[int, int, int], width: int) -> None:
    """An outline of dashes, each four line widths long, on black."""
    x1, y1, x2, y2 = box
    step = 4 * width
    for (ax, ay), (bx, by) in pairwise([(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]):
        length = max(abs(bx - ax), abs(by - ay), 1.0)
        for start in range(0, round(length), 2 * step):
            ends = [t / length for t in (start, min(start + step, length))]
            line = [(ax + (bx - ax) * t, ay + (by - ay) * t) for t in ends]
            draw.line(line, fill=(0, 0, 0), width=width + 2)
            draw.line(line, fill=color, width=width)


def _scaled(box: Rectangle, scale: float, size: tuple[int, int]) -> Rectangle:
    """Scaled, inside the picture, with x1 <= x2 and y1 <= y2."""
    x1, x2 = (min(max(value * scale, 0.0), size[0] - 1.0) for value in (box[0], box[2]))
    y1, y2 = (min(max(value * scale, 0.0), size[1] - 1.0) for value in (box[1], box[3]))
    return x1, y1, max(x1, x2), max(y1, y2)


def _at_least(box: Rectangle, inset: float) -> tuple[float, float]:
    """The inner right bottom corner of the coloured line, never left of its left top one."""
    return max(box[2] - inset, box[0] + inset), max(box[3] - inset, box[1] + inset)


def _tag_place(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: Rectangle,
    size: tuple[int, int],
    text_size: int,
    taken: Sequence[Rectangle],
) -> Rectangle | None:
    width, height = draw.textlength(text, font=font(text_size, text)) + 6, text_size * 1.3 + 2
    left = max(0.0, min(box[0], size[0] - width))
    for top in (box[1] - height, box[1], box[3], box[3] - height):
        place = (left, top, left + width, top + height)
        if top >= 0 and top + height <= size[1] and not any(_touch(place, other) for other in taken):
            return place
    return None


def _touch(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
