"""Signs that detections are not what they seem: corners, shares of the picture, classes or images under other ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifpn.data.coco.plausible import doubt, to_xywh
from ifpn.evaluation.confusion import confusion_matrix, overlaps
from ifpn.evaluation.ground_truth import CocoDetection, GroundTruth

_IMAGES = 500  # whose boxes are matched to see which class is taken for which, and what the numbers mean
_FEW = 4  # matched boxes that say nothing about classes

Boxes = NDArray[Any]
# What four numbers may mean: boxes (B, 4) as written and sizes (B, 2) of their images to x, y, width, height.
_READINGS: dict[str, Callable[[Boxes, Boxes], Boxes]] = {
    "x, y, width, height": lambda box, _: box,
    "corners x1, y1, x2, y2": lambda box, size: to_xywh(box, size, "xyxy"),
    "centre x, y, width, height": lambda box, size: to_xywh(box, size, "cxcywh"),
    "y, x, height, width": lambda box, _: box[:, [1, 0, 3, 2]],
    "corners y1, x1, y2, x2": lambda box, size: to_xywh(box[:, [1, 0, 3, 2]], size, "xyxy"),
    "shares of the picture": lambda box, size: to_xywh(box, size, "xywhn"),
    "thousandths of the picture": lambda box, size: to_xywh(box / 1000, size, "xywhn"),
    "boxes of pictures of twice the size": lambda box, _: box / 2,
    "boxes of pictures of half the size": lambda box, _: box * 2,
}


def doubts(records: Sequence[CocoDetection], truth: GroundTruth, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each sign that a prediction file does not mean what an evaluation takes it for.

    Args:
        records: the detections.
        truth: what they belong to.
        content: the rest of the file: its own lists of categories and images, if it has them.
    """
    boxes = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4)
    sizes = np.array([truth.sizes[record["image_id"]] for record in records], dtype=np.int32).reshape(-1, 2)
    sentence = doubt(boxes, sizes) or _read_otherwise(boxes, sizes, [r["image_id"] for r in records], truth)
    if sentence is not None:
        yield sentence
    yield from _other_ids(content, "categories", "name", truth.category_names)
    yield from _other_ids(content, "images", "file_name", truth.file_names)
    yield from _permuted(records, truth)


def _read_otherwise(boxes: Boxes, sizes: Boxes, images: Sequence[int], truth: GroundTruth) -> str | None:
    """Say as what the numbers would lie on the objects, where they do not as they stand."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        rows[image].append(row)
    some = truth.subset(list(rows)[:_IMAGES])
    objects: dict[int, list[list[float]]] = defaultdict(list)
    for entry in some.annotations:
        objects[entry["image_id"]].append(entry["bbox"])
    found = dict.fromkeys(_READINGS, 0)
    for image, wanted in objects.items():
        mine = rows[image]
        for name, read in _READINGS.items():
            overlap = overlaps(np.array(wanted), read(boxes[mine], sizes[mine]), over_union=True)
            found[name] += int((overlap.max(axis=1) >= 0.5).sum())
    total, (plain, *others) = len(some.annotations), _READINGS
    best = max(others, key=lambda name: found[name])
    if total < _FEW or found[plain] > 0.1 * total or found[best] < 0.5 * total:
        return None
    return f"{found[plain]} of {total} objects have a box on them, {found[best]} would if the numbers were {best}"


def _other_ids(content: Mapping[str, Any], section: str, key: str, names: Mapping[int, str]) -> Iterator[str]:
    """The file's own names of its ids, where the data set calls them something else."""
    entries = content.get(section)
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, Mapping) or entry.get("id") not in names or not isinstance(entry.get(key), str):
            continue
        here, there = entry[key], names[entry["id"]]
        if there and PurePosixPath(here.replace("\\", "/")).name != PurePosixPath(there.replace("\\", "/")).name:
            yield f"its {section} call id {entry['id']} {here!r}, and the annotations {there!r}: the ids are others"
            return


def _permuted(records: Sequence[CocoDetection], truth: GroundTruth) -> Iterator[str]:
    """Classes of which nearly all boxes lie on objects of another one, each of another."""
    known = {image: None for record in records if (image := record["image_id"])}
    some = truth.subset(list(known)[:_IMAGES])
    wanted = frozenset(some.image_ids)
    mine = [record for record in records if record["image_id"] in wanted]
    matrix = confusion_matrix(some, mine, iou_threshold=0.5, score_threshold=-np.inf)
    counts = matrix.counts[:-1, :-1]
    total, right = int(counts.sum()), int(np.trace(counts))
    columns = np.flatnonzero(counts.sum(axis=0))
    meant = counts.argmax(axis=0)[columns]
    fitting = int(counts[meant, columns].sum())
    if total < _FEW or len(set(meant)) < max(2, len(columns)) or right > 0.3 * total or fitting < 0.8 * total:
        return
    pairs = [(k, m) for k, m in zip(columns, meant, strict=True) if k != m]
    names = matrix.class_names
    shown = ", ".join(f"{names[k]!r} on {names[m]!r}" for k, m in pairs[:3])
    whose = f"{right} of {total} boxes on an object have its class"
    yield f"{whose}, {fitting} would if the classes stood in another order ({shown})"
