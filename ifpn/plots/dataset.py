"""What a check found: as text, as JSON, and as a page of pictures with their boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ifpn.data.augment import Augment
from ifpn.data.check import SIZE_BINS, SplitReport
from ifpn.data.dataset import CocoDataset
from ifpn.data.decode import BadImage
from ifpn.plots.boxes import draw_boxes, labelled, to_picture
from ifpn.plots.style import INK
from ifpn.plots.text import font

TILE = 440  # pixels of a picture's longer side on the page
COLUMNS, GAP, CAPTION, TEXT = 4, 10, 20, 13
SHOWN = 20  # defects of each kind in the text; the JSON has all


def as_text(reports: Sequence[SplitReport], remarks: Sequence[str] = ()) -> str:
    """The report for reading, a few lines for a sound data set."""
    lines: list[str] = []
    for report in reports:
        lines += [
            f"{report.split}: {report.file}",
            f"  images {report.images} in {report.folder}, without boxes {report.images_without_boxes}",
            f"  boxes {report.boxes}, crowd regions {report.crowd}, classes {len(report.classes)}",
            f"  {'class':<28}{'boxes':>9}{''.join(f'{name:>9}' for name, _, _ in SIZE_BINS)}",
        ]
        for name, row in report.classes.items():
            cells = "".join(f"{row[key]:>9}" for key in ("boxes", *(bin_name for bin_name, _, _ in SIZE_BINS)))
            lines.append(f"  {name[:27]:<28}{cells}")
        for kind, count in report.counts.items():
            lines.append(f"  DEFECT {kind}: {count}")
            found = [defect for defect in report.defects if defect.kind == kind]
            lines += [f"    {defect}" for defect in found[:SHOWN]]
            lines += [f"    … and {count - SHOWN} more, all in the JSON report"] if count > SHOWN else []
        lines += [f"  note: {note}" for note in report.notes]
        lines += ["  no defects"] if not report.counts else []
    return "\n".join([*lines, *(f"note: {remark}" for remark in remarks)])


def as_json(reports: Sequence[SplitReport], remarks: Sequence[str] = ()) -> str:
    """The whole report, every defect included."""
    return json.dumps({"splits": [report.to_json() for report in reports], "notes": list(remarks)}, indent=1)


def draw_page(data: CocoDataset, augment: Augment, path: Path, *, count: int, seed: int) -> int:
    """Draw up to `count` images spread over the set, each as it is and beside it as training would see it.

    Returns the number of images drawn; unreadable ones are passed over.
    """
    with_boxes = np.flatnonzero(data.annotations.boxes_per_image()[data.images] > 0)
    source = with_boxes if len(with_boxes) else np.arange(len(data))
    spread = source[np.unique(np.linspace(0, len(source) - 1, 4 * count).round().astype(int))]
    tiles: list[Image.Image] = []
    # every fourth candidate first: the others stand in for unreadable ones
    for index in (index for first in range(4) for index in spread[first::4]):
        if len(tiles) == 2 * count:
            break
        try:
            image, target = data[int(index)]
        except BadImage:
            continue
        boxes, labels = torch.as_tensor(target["boxes"]), torch.as_tensor(target["labels"])
        caption = f"image {target['image_id']}"
        tiles.append(draw_tile(image, boxes, labels, data.annotations.categories.names, caption))
        seen = augment(image, boxes, labels, (seed, 0, int(index)))
        tiles.append(draw_tile(*seen, data.annotations.categories.names, f"{caption}, augmented"))
    if not tiles:
        return 0
    columns = min(len(tiles), COLUMNS)
    rows = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    page = Image.new("RGB", (columns * (TILE + GAP) + GAP, sum(heights) + GAP * (len(rows) + 1)), "white")
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            page.paste(tile, (GAP + column * (TILE + GAP), top))
        top += height + GAP
    page.save(path)
    return len(tiles) // 2


def draw_tile(image: Tensor, boxes: Tensor, labels: Tensor, names: Sequence[str], caption: str) -> Image.Image:
    """A caption over a picture of at most TILE pixels a side with its boxes (M, 4) xyxy and class names."""
    picture = to_picture(image)
    scale = TILE / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)
    draw_boxes(picture, labelled(boxes, labels, None, 0.0), names, scale=scale, text_size=TEXT)
    tile = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    tile.paste(picture, (0, CAPTION))
    ImageDraw.Draw(tile).text((0, 2), caption, fill=INK, font=font(TEXT))
    return tile
