"""The entries of an annotation file as plain columns, and the check of every box."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifpn.data.coco.defects import TOLERANCE, DefectLog, DefectPolicy
from ifpn.data.coco.files import relative_name, unsafe_reason
from ifpn.data.coco.plausible import doubt, remedy, to_xywh
from ifpn.data.coco.values import Box, as_box, as_flag, as_number, as_whole, box_around

_NUMBERS = (int, float)  # exact types: true and false are no coordinates
NO_ID = -(2**63)


@dataclass
class RawAnnotations:
    """Columns as read.

    Attributes:
        size: width and height of each image; 0, 0 where the file has none.
        dropped_images: ids of images left out, whose boxes go with them.
        annotation_id: `NO_ID` where there is no whole number.
        position: of each annotation kept, in the file.
        area: NaN where the file has none.
        settled: whether a box is x, y, width, height in pixels whatever the policy's `box_format`.
    """

    sections: set[str] = field(default_factory=set)
    category_entries: list[object] = field(default_factory=list)
    image_id: array[int] = field(default_factory=lambda: array("q"))
    size: array[int] = field(default_factory=lambda: array("i"))
    names: list[str] = field(default_factory=list)
    dropped_images: set[int] = field(default_factory=set)
    total_annotations: int = 0
    position: array[int] = field(default_factory=lambda: array("i"))
    annotation_id: array[int] = field(default_factory=lambda: array("q"))
    annotation_image: array[int] = field(default_factory=lambda: array("q"))
    category: array[int] = field(default_factory=lambda: array("q"))
    box: array[float] = field(default_factory=lambda: array("d"))
    area: array[float] = field(default_factory=lambda: array("d"))
    crowd: array[int] = field(default_factory=lambda: array("b"))
    settled: array[int] = field(default_factory=lambda: array("b"))

    def image_ids(self) -> NDArray[np.int64]:
        """Return the ids of the images kept (I,)."""
        return np.array(self.image_id, dtype=np.int64)

    def sizes(self) -> NDArray[np.int32]:
        """Return width and height of the images kept (I, 2)."""
        return np.array(self.size, dtype=np.int32).reshape(-1, 2)

    def drop_images(self, positions: Iterable[int]) -> None:
        """Leave out the images at these positions, and their boxes with them."""
        gone = set(positions)
        kept = [i for i in range(len(self.names)) if i not in gone]
        self.dropped_images |= {self.image_id[i] for i in gone}
        self.size = array("i", (side for i in kept for side in self.size[2 * i : 2 * i + 2]))
        self.image_id = array("q", (self.image_id[i] for i in kept))
        self.names = [self.names[i] for i in kept]

    def annotation_label(self, row: int) -> int | str:
        """Return how reports name an annotation: by its id, or by its place in the file."""
        number = self.annotation_id[row]
        return number if number != NO_ID else f"number {self.position[row] + 1} of the file"


@dataclass(frozen=True)
class CheckedAnnotations:
    """Boxes that an evaluation can use, sorted by image; see CocoAnnotations for the columns."""

    start: NDArray[np.int64]
    box_xyxy: NDArray[np.float32]
    box_xywh: NDArray[np.float64]
    area: NDArray[np.float64]
    label: NDArray[np.int32]
    crowd: NDArray[np.bool_]
    usable: NDArray[np.bool_]


def read_rows(
    entries: Iterable[tuple[str, object]], log: DefectLog, policy: DefectPolicy, *, files_needed: bool
) -> RawAnnotations:
    """Read the entries once; those that cannot become a row are recorded in `log`.

    Args:
        entries: (section, entry) as `stream_coco` yields them.
        log: takes the defects.
        policy: what is done about them.
        files_needed: whether images must have file names, and sizes.
    """
    raw = RawAnnotations()
    seen_images: set[int] = set()
    for section, entry in entries:
        if section not in raw.sections:  # the first of each section announces it
            raw.sections.add(section)
        elif section == "annotations":
            _add_annotation(raw, entry, log)
            raw.total_annotations += 1
        elif section == "images":
            _add_image(raw, entry, seen_images, log, policy, files_needed)
        else:
            raw.category_entries.append(entry)
    raw.dropped_images -= set(raw.image_id)  # a duplicate's first entry stays, and so do its boxes
    return raw


def _add_image(
    raw: RawAnnotations, entry: object, seen: set[int], log: DefectLog, policy: DefectPolicy, files_needed: bool
) -> None:
    if not isinstance(entry, Mapping):
        log.add("malformed_image", None, None, f"not an object: {str(entry)[:60]}")
        return
    number, name = as_whole(entry.get("id")), entry.get("file_name")
    if number is None:
        log.add("malformed_image", entry.get("id"), None, f"id must be a whole number, is {entry.get('id')!r:.60}")
        return
    if number in seen:
        log.add("duplicate_image", number, None, f"a second image with this id, file {str(name)[:80]!r}")
        return
    seen.add(number)
    log.note("text", f"images[].id {entry['id']!r}", type(entry["id"]) is str)
    name = "" if name is None and not files_needed else name
    size = [as_whole(entry.get(side)) or 0 for side in ("width", "height")]
    unknown = not all(1 <= side < 2**31 for side in size)
    drop = not isinstance(name, str)
    if not isinstance(name, str):
        log.add("malformed_image", number, None, f"file_name must be text, is {name!r:.60}")
    elif (reason := unsafe_reason(name)) is not None and (name or files_needed):
        log.add("unsafe_path", number, None, f"file name {name[:80]!r}: {reason}")
        name = relative_name(name)
        drop = policy.action("unsafe_path") != "fix" or unsafe_reason(name) is not None
    elif unknown and (files_needed or policy.action("missing_size") != "measure"):
        log.add("missing_size", number, None, f"width {entry.get('width')!r:.40}, height {entry.get('height')!r:.40}")
        drop = policy.action("missing_size") == "drop"
    if drop:
        raw.dropped_images.add(number)
        return
    raw.image_id.append(number)
    raw.size.extend((0, 0) if unknown else size)
    raw.names.append(str(name))


def _add_annotation(raw: RawAnnotations, entry: Any, log: DefectLog) -> None:
    try:
        x, y, w, h = entry["bbox"]
        image, category, crowd = entry["image_id"], entry["category_id"], entry.get("iscrowd", 0)
        plain = (
            type(image) is int
            and type(category) is int
            and type(crowd) is int
            and crowd in (0, 1)
            and type(x) in _NUMBERS
            and type(y) in _NUMBERS
            and type(w) in _NUMBERS
            and type(h) in _NUMBERS
            and max(abs(image), abs(category)) < 2**63
        )
        four: Box = (float(x), float(y), float(w), float(h)) if plain else (0.0, 0.0, 0.0, 0.0)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError):
        plain = False
    settled = False
    if not plain:
        meant = _interpret(entry, log)
        if meant is None:
            return
        image, category, crowd, four, settled = meant
    number, area = entry.get("id"), entry.get("area")
    if type(number) is not int or not NO_ID < number < -NO_ID:
        whole = as_whole(number)
        log.note("no_id", times=whole is None)
        number = NO_ID if whole is None else whole
    if type(area) is not float:
        measured = as_number(area)
        area = float("nan") if measured is None else measured
    raw.position.append(raw.total_annotations)
    raw.annotation_id.append(number)
    raw.annotation_image.append(image)
    raw.category.append(category)
    raw.box.extend(four)
    raw.area.append(area if 0 <= area < float("inf") else float("nan"))
    raw.crowd.append(crowd)
    raw.settled.append(settled)


def _interpret(entry: object, log: DefectLog) -> tuple[int, int, int, Box, bool] | None:
    """Read an annotation whose values are of unusual types; None with an entry in the log if that cannot be done."""
    if not isinstance(entry, Mapping):
        log.add("malformed_annotation", None, None, f"not an object: {str(entry)[:60]}")
        return None
    image, category, crowd = (
        as_whole(entry.get("image_id")),
        as_whole(entry.get("category_id")),
        as_flag(entry.get("iscrowd")),
    )
    where = (entry.get("image_id"), entry.get("id"))
    absent = [key for key in ("image_id", "category_id") if key not in entry]
    box = as_box(entry.get("bbox"))
    if box is None and not entry.get("bbox"):
        box = box_around(entry.get("segmentation"))
        log.note("around", times=box is not None)
        absent += ["bbox"] if box is None and "bbox" not in entry else []
    if absent:
        log.add("malformed_annotation", *where, f"has no {', '.join(absent)}")
    elif image is None or category is None or crowd is None:
        keys = [key for key in ("image_id", "category_id", "iscrowd") if key in entry]
        shown = ", ".join(f"{key} is {entry[key]!r}" for key in keys)
        log.add("malformed_annotation", *where, f"ids must be whole numbers, iscrowd 0 or 1: {shown[:120]}")
    elif box is None:
        log.add("malformed_box", *where, f"bbox must be four numbers x, y, width, height, is {entry.get('bbox')!s:.80}")
    else:
        texts = [key for key in ("image_id", "category_id", "iscrowd") if type(entry.get(key)) is str]
        bbox = entry.get("bbox")
        texts += ["bbox"] if isinstance(bbox, list) and any(type(value) is str for value in bbox) else []
        if texts:
            log.note("text", f"{texts[0]} {entry.get(texts[0])!r:.60}")
        return image, category, crowd, box, not bbox or isinstance(bbox, Mapping)
    return None


def check_rows(
    raw: RawAnnotations, category_ids: NDArray[np.int64], policy: DefectPolicy, log: DefectLog
) -> CheckedAnnotations:
    """Check every row; the first defect of a row is the one recorded. Dropped rows are not `usable`."""
    ids, owner, category = (
        np.array(c, dtype=np.int64) for c in (raw.annotation_id, raw.annotation_image, raw.category)
    )
    image, image_known = _lookup(owner, raw.image_ids())
    label, label_known = _lookup(category, category_ids)
    sizes = raw.sizes()[image] if len(raw.names) else np.zeros((len(owner), 2), np.int32)
    with np.errstate(invalid="ignore", over="ignore"):
        box = np.array(raw.box, dtype=np.float64).reshape(-1, 4)
        settled = np.array(raw.settled, dtype=np.bool_)[:, None]
        box = np.where(settled, box, to_xywh(box, sizes, policy.box_format))
        area = np.array(raw.area, dtype=np.float64)
        area = np.where(np.isnan(area), box[:, 2] * box[:, 3], area)
    crowd = np.array(raw.crowd, dtype=np.bool_)
    silent = np.isin(owner, np.array(sorted(raw.dropped_images), dtype=np.int64)) & ~image_known
    pending = ~silent
    usable = pending.copy()
    for kind, bad in (
        ("unknown_image", ~image_known),
        ("unknown_category", ~label_known),
        ("not_finite", ~np.isfinite(box).all(axis=1)),
        ("negative_size", (box[:, 2:] < 0).any(axis=1)),
        ("duplicate_annotation", _repeated(ids, owner, category, box, area, crowd)),
    ):
        usable &= ~_record(kind, bad & pending, pending, raw, log)
    evaluable = usable.copy()  # the rest concerns boxes that an evaluation can still use
    _note_ids(ids[evaluable], log)
    judged = image_known & np.isfinite(box).all(axis=1)
    sentence = doubt(box[judged], sizes[judged])
    if sentence is not None:
        log.add("implausible", None, None, f"{sentence}; {remedy(sentence)}")
    sizes = np.where(sizes > 0, sizes, 2**31 - 1)  # where the size is unknown, no box is outside
    corners, clipped, overhang = _clip(box, sizes)
    inside = clipped[:, 2:] - clipped[:, :2]
    for kind, bad in (
        ("zero_area", (box[:, 2:] == 0).any(axis=1)),
        ("outside", ((corners[:, 2:] <= 0) | (corners[:, :2] >= sizes)).any(axis=1)),
        ("too_small", (inside <= 1).any(axis=1)),
        ("partly_outside", overhang > TOLERANCE),
    ):
        hit = _record(kind, bad & pending, pending, raw, log)
        if policy.action(kind) != "fix":
            usable &= ~hit

    order = np.flatnonzero(evaluable)
    order = order[np.argsort(image[order], kind="stable")]
    counts = np.bincount(image[order], minlength=len(raw.names))
    return CheckedAnnotations(
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        box_xyxy=clipped[order].astype(np.float32),
        box_xywh=box[order],
        area=area[order],
        label=label[order].astype(np.int32),
        crowd=crowd[order],
        usable=usable[order] & ~crowd[order],
    )


def _note_ids(ids: NDArray[np.int64], log: DefectLog) -> None:
    ids = ids[ids != NO_ID]
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        log.note("repeated_id", str(values[counts.argmax()]), len(ids) - len(values))


def _repeated(ids: Any, owner: Any, category: Any, box: Any, area: Any, crowd: Any) -> NDArray[np.bool_]:
    """Whether a row is equal to an earlier one, so that nothing tells the two apart."""
    table = np.column_stack([ids, owner, category, crowd, box.view(np.int64), area.view(np.int64)]).astype(np.int64)
    mixed = np.zeros(len(table), dtype=np.uint64)
    for column in table.T.astype(np.uint64):  # a hash, because sorting whole rows takes seconds on COCO
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    _, first, group = np.unique(mixed, return_index=True, return_inverse=True)
    earlier = first[group]
    repeated: NDArray[np.bool_] = (earlier < np.arange(len(table))) & (table == table[earlier]).all(axis=1)
    return repeated


def _record(
    kind: str,
    hit: NDArray[np.bool_],
    pending: NDArray[np.bool_],
    raw: RawAnnotations,
    log: DefectLog,
) -> NDArray[np.bool_]:
    """Record the rows hit, take them off `pending` (in place) and return them."""
    for row in np.flatnonzero(hit):
        box = [float(f"{v:.6g}") for v in raw.box[4 * row : 4 * row + 4]]
        detail = f"category_id {raw.category[row]}" if kind == "unknown_category" else f"bbox {box}"
        log.add(kind, raw.annotation_image[row], raw.annotation_label(int(row)), detail)
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
