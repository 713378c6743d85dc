"""The entries of an annotation file as plain columns, and the check of every box."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifpn.data.coco.defects import TOLERANCE, DefectLog, DefectPolicy
from ifpn.data.coco.layout import unsafe_reason
from ifpn.data.coco.stream import stream_coco

_NUMBERS = (int, float)  # exact types: true and false are no coordinates


@dataclass
class RawAnnotations:
    """Columns as read. `dropped_images` are ids of images left out, whose boxes go with them."""

    sections: set[str] = field(default_factory=set)
    category_entries: list[object] = field(default_factory=list)
    image_id: array[int] = field(default_factory=lambda: array("q"))
    size: array[int] = field(default_factory=lambda: array("i"))
    names: list[str] = field(default_factory=list)
    dropped_images: set[int] = field(default_factory=set)
    total_annotations: int = 0
    annotation_id: array[int] = field(default_factory=lambda: array("q"))
    annotation_image: array[int] = field(default_factory=lambda: array("q"))
    category: array[int] = field(default_factory=lambda: array("q"))
    box: array[float] = field(default_factory=lambda: array("d"))
    area: array[float] = field(default_factory=lambda: array("d"))
    crowd: array[int] = field(default_factory=lambda: array("b"))

    def image_ids(self) -> NDArray[np.int64]:
        """Ids of the images kept (I,)."""
        return np.array(self.image_id, dtype=np.int64)

    def sizes(self) -> NDArray[np.int32]:
        """Width and height of the images kept (I, 2)."""
        return np.array(self.size, dtype=np.int32).reshape(-1, 2)


@dataclass(frozen=True)
class CheckedAnnotations:
    """Boxes that an evaluation can use, sorted by image; see CocoAnnotations for the columns."""

    start: NDArray[np.int64]
    annotation_ids: NDArray[np.int64]
    box_xyxy: NDArray[np.float32]
    box_xywh: NDArray[np.float64]
    area: NDArray[np.float64]
    label: NDArray[np.int32]
    crowd: NDArray[np.bool_]
    usable: NDArray[np.bool_]


def read_rows(path: Path, log: DefectLog) -> RawAnnotations:
    """Read the file once; entries that cannot become a row are recorded in `log`."""
    raw = RawAnnotations()
    seen_images: set[int] = set()
    for section, entry in stream_coco(path):
        if section not in raw.sections:  # the first of each section announces it
            raw.sections.add(section)
        elif section == "annotations":
            raw.total_annotations += 1
            _add_annotation(raw, entry, log)
        elif section == "images":
            _add_image(raw, entry, seen_images, log)
        else:
            raw.category_entries.append(entry)
    raw.dropped_images -= set(raw.image_id)  # a duplicate's first entry stays, and so do its boxes
    return raw


def _whole(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _add_image(raw: RawAnnotations, entry: object, seen: set[int], log: DefectLog) -> None:
    if not isinstance(entry, dict):
        log.add("malformed_image", None, None, f"not an object: {str(entry)[:60]}")
        return
    number: Any = entry.get("id")
    name: Any = entry.get("file_name")
    width: Any = entry.get("width")
    height: Any = entry.get("height")
    if not _whole(number):
        log.add("malformed_image", number, None, f"id must be a whole number, is {str(number)[:60]}")
        return
    reason = None
    if number in seen:
        log.add("duplicate_image", number, None, f"a second image with this id, file {str(name)[:80]!r}")
        return
    seen.add(number)
    if not isinstance(name, str):
        reason = f"file_name must be text, is {str(name)[:60]}"
    elif not (_pixels(width) and _pixels(height)):
        reason = f"width and height must be whole numbers from 1 on, are {str(width)[:40]} and {str(height)[:40]}"
    if reason is not None:
        log.add("malformed_image", number, None, reason)
    else:
        reason = unsafe_reason(name)
        if reason is not None:
            log.add("unsafe_path", number, None, f"file name {name[:80]!r}: {reason}")
    if reason is not None:
        raw.dropped_images.add(number)
        return
    raw.image_id.append(number)
    raw.size.extend((int(width), int(height)))
    raw.names.append(name)


def _pixels(value: object) -> bool:
    """Whether this is a picture's side: a whole number from 1 on (640.0 is one too)."""
    if type(value) is float:
        return value.is_integer() and 1 <= value < 2**31
    return type(value) is int and 1 <= value < 2**31


def _add_annotation(raw: RawAnnotations, entry: object, log: DefectLog) -> None:
    try:
        number, image, category, box = entry["id"], entry["image_id"], entry["category_id"], entry["bbox"]  # type: ignore[index]
    except (KeyError, TypeError, IndexError):
        _explain_malformed(entry, log)
        return
    crowd = entry.get("iscrowd", 0)  # type: ignore[attr-defined]  # it has string keys, so it is an object
    if not (_whole(number) and _whole(image) and _whole(category) and crowd in (0, 1)):
        shown = f"id {number!r}, image_id {image!r}, category_id {category!r}, iscrowd {crowd!r}"
        log.add("malformed_annotation", image, number, f"ids must be whole numbers, iscrowd 0 or 1: {shown[:120]}")
        return
    try:
        x, y, w, h = box
        if not (type(x) in _NUMBERS and type(y) in _NUMBERS and type(w) in _NUMBERS and type(h) in _NUMBERS):
            raise TypeError
        four = (float(x), float(y), float(w), float(h))
    except (TypeError, ValueError, OverflowError):
        log.add(
            "malformed_box",
            image,
            number,
            f"bbox must be four numbers x, y, width, height, is {str(box)[:80]}",
        )
        return
    area = entry.get("area")  # type: ignore[attr-defined]
    try:
        size = float(area) if type(area) in _NUMBERS else -1.0
    except OverflowError:
        size = -1.0
    raw.annotation_id.append(number)
    raw.annotation_image.append(image)
    raw.category.append(category)
    raw.box.extend(four)
    raw.area.append(size if 0 <= size < float("inf") else w * h)
    raw.crowd.append(int(crowd))


def _explain_malformed(entry: object, log: DefectLog) -> None:
    if not isinstance(entry, dict):
        log.add("malformed_annotation", None, None, f"not an object: {str(entry)[:60]}")
        return
    missing = [key for key in ("id", "image_id", "category_id", "bbox") if key not in entry]
    log.add("malformed_annotation", entry.get("image_id"), entry.get("id"), f"has no {', '.join(missing)}")


def check_rows(
    raw: RawAnnotations, category_ids: NDArray[np.int64], policy: DefectPolicy, log: DefectLog
) -> CheckedAnnotations:
    """Check every row; the first defect of a row is the one recorded. Dropped rows are not `usable`."""
    ids, owner = np.array(raw.annotation_id, dtype=np.int64), np.array(raw.annotation_image, dtype=np.int64)
    category, box = np.array(raw.category, dtype=np.int64), np.array(raw.box, dtype=np.float64).reshape(-1, 4)
    image, image_known = _lookup(owner, raw.image_ids())
    label, label_known = _lookup(category, category_ids)
    silent = np.isin(owner, np.array(sorted(raw.dropped_images), dtype=np.int64)) & ~image_known
    pending = ~silent
    _, first = np.unique(ids, return_index=True)
    repeated = np.ones(len(ids), dtype=np.bool_)
    repeated[first] = False

    usable = pending.copy()
    for kind, bad in (
        ("duplicate_annotation", repeated),
        ("unknown_image", ~image_known),
        ("unknown_category", ~label_known),
        ("not_finite", ~np.isfinite(box).all(axis=1)),
        ("negative_size", (box[:, 2:] < 0).any(axis=1)),
    ):
        usable &= ~_record(kind, bad & pending, pending, ids, owner, raw, log)
    evaluable = usable.copy()  # the rest concerns boxes that an evaluation can still use
    sizes = raw.sizes()[image] if len(raw.names) else np.ones((len(ids), 2), np.int32)
    corners, clipped, overhang = _clip(box, sizes)
    inside = clipped[:, 2:] - clipped[:, :2]
    for kind, bad in (
        ("zero_area", (box[:, 2:] == 0).any(axis=1)),
        ("outside", ((corners[:, 2:] <= 0) | (corners[:, :2] >= sizes)).any(axis=1)),
        ("too_small", (inside <= 1).any(axis=1)),
        ("partly_outside", overhang > TOLERANCE),
    ):
        hit = _record(kind, bad & pending, pending, ids, owner, raw, log)
        if policy.action(kind) != "fix":
            usable &= ~hit

    order = np.flatnonzero(evaluable)
    order = order[np.argsort(image[order], kind="stable")]
    crowd = np.array(raw.crowd, dtype=np.bool_)[order]
    counts = np.bincount(image[order], minlength=len(raw.names))
    return CheckedAnnotations(
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        annotation_ids=ids[order],
        box_xyxy=clipped[order].astype(np.float32),
        box_xywh=box[order],
        area=np.array(raw.area, dtype=np.float64)[order],
        label=label[order].astype(np.int32),
        crowd=crowd,
        usable=usable[order] & ~crowd,
    )


def _record(
    kind: str,
    hit: NDArray[np.bool_],
    pending: NDArray[np.bool_],
    ids: NDArray[np.int64],
    owner: NDArray[np.int64],
    raw: RawAnnotations,
    log: DefectLog,
) -> NDArray[np.bool_]:
    """Record the rows hit, take them off `pending` (in place) and return them."""
    for row in np.flatnonzero(hit):
        box = [float(f"{v:.6g}") for v in raw.box[4 * row : 4 * row + 4]]
        detail = f"category_id {raw.category[row]}" if kind == "unknown_category" else f"bbox {box}"
        log.add(kind, int(owner[row]), int(ids[row]), detail)
    pending &= ~hit
    return hit


def _lookup(values: NDArray[np.int64], known: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Position of each value in `known`, and whether it is there (position 0 where it is not)."""
    if len(known) == 0:
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    order = np.argsort(known, kind="stable")
    place = np.minimum(np.searchsorted(known[order], values), len(known) - 1)
    found = known[order][place] == values
    return np.where(found, order[place], 0), found


def _clip(
    box: NDArray[np.float64], sizes: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Corners of xywh boxes, those clipped to the image, and how far they reach over its edge (pixels)."""
    with np.errstate(invalid="ignore", over="ignore"):  # rows that are not finite are recorded by then
        corners = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)
        limit = np.concatenate([sizes, sizes], axis=1).astype(np.float64)
        clipped = np.clip(corners, 0, limit)
        overhang = np.abs(corners - clipped).max(axis=1, initial=0)
    return corners, clipped, overhang
