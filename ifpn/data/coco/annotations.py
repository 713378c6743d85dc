"""COCO annotation files as a few numpy arrays: small, checked, shared by loader workers without copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifpn.data.coco.defects import DataError, DefectLog, DefectPolicy
from ifpn.data.coco.rows import RawAnnotations, check_rows, read_rows
from ifpn.data.coco.stream import stream_coco
from ifpn.data.coco.values import as_whole
from ifpn.data.coco.yolo import is_yolo, stream_yolo

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Measure = Callable[[Sequence[str], Sequence[int]], dict[int, tuple[int, int] | str]]


class ClassMismatch(DataError):
    """A file names classes that were not expected; the message says which."""


@dataclass(frozen=True)
class Categories:
    """Official ids in increasing order and their names: class k of the network is `ids[k]`, `names[k]`."""

    ids: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class CocoAnnotations:
    """One annotation file. Boxes are sorted by image: those of image i are rows `start[i]:start[i + 1]`.

    Attributes:
        path: of the file; a description where there was none.
        categories: the classes.
        image_ids: (I,) official ids.
        sizes: (I, 2) width and height; 0 where neither the file nor an image told.
        start: (I + 1,) first row of each image.
        box_xyxy: (B, 4) float32 in pixels, clipped to the image.
        box_xywh: (B, 4) float64 as written.
        area: (B,) as written, else that of the box.
        label: (B,) class number from 0.
        crowd: (B,) crowd regions.
        usable: (B,) whether it may be trained on: no crowd region, and without a defect that drops it.
        log: what was wrong.
        parents: ids of categories that are only the name of a group of others here, and have no box.
    """

    path: Path
    categories: Categories
    image_ids: Ints
    sizes: NDArray[np.int32]
    start: Ints
    box_xyxy: Floats
    box_xywh: Doubles
    area: Doubles
    label: NDArray[np.int32]
    crowd: Bools
    usable: Bools
    log: DefectLog
    parents: tuple[int, ...]
    _name_bytes: NDArray[np.uint8]
    _name_start: Ints

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def file_name(self, i: int) -> str:
        """Return the file name of image i as written in the file."""
        return self._name_bytes[self._name_start[i] : self._name_start[i + 1]].tobytes().decode("utf-8")

    def file_names(self) -> list[str]:
        """Return the file names of all images."""
        return [self.file_name(i) for i in range(len(self))]

    @property
    def has_boxes(self) -> bool:
        """Whether there is a box that can be found; crowd regions cannot."""
        return not bool(self.crowd.all())

    def boxes(self, i: int) -> tuple[Floats, NDArray[np.int32]]:
        """Return boxes (M, 4) xyxy and labels (M,) of image i that may be trained on."""
        rows = slice(self.start[i], self.start[i + 1])
        keep = self.usable[rows]
        return self.box_xyxy[rows][keep], self.label[rows][keep]

    def owner(self) -> Ints:
        """Return the image of each row (B,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def boxes_per_image(self) -> Ints:
        """Return the number of usable boxes of each image (I,)."""
        return np.bincount(self.owner()[self.usable], minlength=len(self))

    def boxes_per_class(self) -> Ints:
        """Return the number of boxes of each class (K,), crowd regions not counted."""
        return np.bincount(self.label[~self.crowd], minlength=len(self.categories.ids))

    def select_images(self, images: Ints) -> CocoAnnotations:
        """Return the same with only the images at these positions, in this order."""
        place = np.full(len(self), -1)
        place[images] = np.arange(len(images))
        rows = place[self.owner()]
        order = np.flatnonzero(rows >= 0)
        order = order[np.argsort(rows[order], kind="stable")]
        names, start = _packed([self.file_name(int(i)) for i in images])
        some = replace(self, image_ids=self.image_ids[images], sizes=self.sizes[images])
        return replace(some, _name_bytes=names, _name_start=start)._rows(order, rows[order])

    def select_classes(self, ids: Iterable[int]) -> CocoAnnotations:
        """Return the same with only these categories; boxes of the others are left out."""
        wanted = set(ids)
        kept = np.array([number in wanted for number in self.categories.ids])
        numbers = np.cumsum(kept) - 1
        pairs = [p for p, keep in zip(zip(*_pair(self.categories), strict=True), kept, strict=True) if keep]
        order = np.flatnonzero(kept[self.label])
        some = replace(self, categories=Categories(tuple(i for i, _ in pairs), tuple(n for _, n in pairs)))
        some = replace(some, label=numbers[self.label].astype(np.int32))
        return some._rows(order, self.owner()[order])

    def relabelled(self, categories: Categories) -> CocoAnnotations:
        """Return the same with other classes, among which its own are."""
        place = np.array([categories.ids.index(number) for number in self.categories.ids], dtype=np.int32)
        return replace(self, categories=categories, label=place[self.label] if len(self.label) else self.label)

    def _rows(self, order: Ints, owner: Ints) -> CocoAnnotations:
        columns = {name: getattr(self, name)[order] for name in _COLUMNS}
        counts = np.bincount(owner, minlength=len(self.image_ids))
        return replace(self, start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **columns)

    def to_coco(self) -> dict[str, list[dict[str, Any]]]:
        """Return the ground truth as pycocotools reads it: official ids, crowd regions included, boxes as written.

        Left out are only entries that no evaluation can use: malformed, of unknown image or category, duplicate,
        not finite, of negative size. Tiny boxes and boxes over the edge stay, as in COCO's own evaluation.
        """
        annotations = [
            {
                "id": row + 1,  # pycocotools takes id 0 for "no match", so that official ids are not safe here
                "image_id": int(self.image_ids[owner]),
                "category_id": self.categories.ids[self.label[row]],
                "bbox": self.box_xywh[row].tolist(),
                "area": float(self.area[row]),
                "iscrowd": int(self.crowd[row]),
            }
            for row, owner in enumerate(self.owner())
        ]
        images = [
            {"id": int(self.image_ids[i]), "file_name": self.file_name(i), "width": int(w), "height": int(h)}
            for i, (w, h) in enumerate(self.sizes)
        ]
        classes = [{"id": i, "name": n} for i, n in zip(*_pair(self.categories), strict=True)]
        return {"images": images, "annotations": annotations, "categories": classes}


_COLUMNS = ("box_xyxy", "box_xywh", "area", "label", "crowd", "usable")


def _pair(categories: Categories) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return categories.ids, categories.names


def _packed(names: Sequence[str]) -> tuple[NDArray[np.uint8], Ints]:
    encoded = [name.encode("utf-8") for name in names]
    start = np.concatenate([[0], np.cumsum([len(name) for name in encoded])]).astype(np.int64)
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), start


def load_annotations(
    source: str | Path | Mapping[str, Any],
    *,
    policy: DefectPolicy,
    split: str = "train",
    categories: Categories | None = None,
    classes: Sequence[str] | None = None,
    boxes_required: bool = True,
    keep_defects: int = 1000,
    measure: Measure | None = None,
    files_needed: bool = True,
) -> CocoAnnotations:
    """Read annotations: the one reader of training, evaluation, metrics and checks.

    Args:
        source: a COCO-format JSON file, its content, or the data.yaml of a YOLO folder.
        policy: what to do with each kind of defect.
        split: of a YOLO folder.
        categories: classes of the training file, for a validation file, which may use these and no others.
        classes: names of the classes that are used; None: all.
        boxes_required: False accepts a file without "annotations" (COCO's image_info_test-dev2017.json).
        keep_defects: how many defects of each kind are kept in full (all are counted).
        measure: sizes of image files by position, or why there is none; used where the file does not tell.
        files_needed: whether an image must have a file name, and its size be known.

    Raises:
        DataError: a file that is not of this format, defects the policy refuses, too many dropped, boxes that are
            probably not x, y, width, height in pixels.
    """
    path = Path("the given annotations") if isinstance(source, Mapping) else Path(source)
    log = DefectLog(keep=keep_defects)
    known_format = source if isinstance(source, Mapping) else path
    entries = stream_yolo(path, split) if is_yolo(path) else stream_coco(known_format)
    raw = read_rows(entries, log, policy, files_needed=files_needed)
    _require_sections(raw, path, boxes_required)
    own, parents = _categories(raw, path)
    known = own if categories is None or classes is not None else _agree(own, categories, parents, path)
    if measure is not None:
        _measure(raw, measure, log)
    checked = check_rows(raw, np.asarray(known.ids, dtype=np.int64), policy, log)
    log.refuse(path, policy, raw.total_annotations)
    if len(raw.names) == 0:
        raise DataError(f"{path} has no usable images{f': {log.reasons()}' if log.counts else ''}")
    names, start = _packed(raw.names)
    found = CocoAnnotations(
        path=path,
        categories=known,
        image_ids=raw.image_ids(),
        sizes=raw.sizes(),
        log=log,
        parents=parents,
        _name_bytes=names,
        _name_start=start,
        **vars(checked),
    )
    if classes is None:
        return found
    wanted = [str(name) for name in classes]
    if categories is None:
        return found.select_classes(_chosen(own, wanted, path))
    found = found.select_classes(i for i, name in zip(*_pair(own), strict=True) if name in wanted)
    return found.relabelled(_agree(found.categories, categories, parents, path))


def _measure(raw: RawAnnotations, measure: Measure, log: DefectLog) -> None:
    """Take sizes that the file does not tell from the images; an image without a readable file is left out."""
    wanted = [i for i in range(len(raw.names)) if raw.size[2 * i] == 0]
    gone = []
    for i, size in (measure(raw.names, wanted) if wanted else {}).items():
        if isinstance(size, str):
            gone.append(i)
            log.add("malformed_image", raw.image_id[i], None, f"has no width and height, and {size}")
        else:
            raw.size[2 * i], raw.size[2 * i + 1] = size
    if gone:
        raw.drop_images(gone)


def _require_sections(raw: RawAnnotations, path: Path, boxes_required: bool) -> None:
    needed = ["images", "categories"] + (["annotations"] if boxes_required else [])
    missing = [section for section in needed if section not in raw.sections]
    if missing:
        raise DataError(f"{path} has no section {', '.join(missing)}: it needs images, annotations and categories")


def _categories(raw: RawAnnotations, path: Path) -> tuple[Categories, tuple[int, ...]]:
    """The classes, and the ids of those that are only the supercategory of others: they have no box."""
    found: dict[int, str] = {}
    groups: dict[str, set[int]] = {}
    for position, entry in enumerate(raw.category_entries):
        entry = entry if isinstance(entry, Mapping) else {}
        number, name = as_whole(entry.get("id")), entry.get("name")
        name = str(name) if type(name) is int else name
        if number is None or not 0 <= number < 2**31 or not isinstance(name, str) or not name:
            raise DataError(
                f"{path}: category number {position} needs an id (a whole number from 0 on) "
                f"and a name (text), but is {str(raw.category_entries[position])[:80]}"
            )
        if found.get(number, name) != name:
            raise DataError(f"{path}: two categories have the id {number}: {found[number]!r} and {name!r}")
        found[number] = name
        groups.setdefault(str(entry.get("supercategory")), set()).add(number)
    if not found:
        raise DataError(f"{path} has no categories: at least one class is needed")
    ids, used = tuple(sorted(found)), set(raw.category)
    parents = tuple(i for i in ids if groups.get(found[i], set()) - {i} and i not in used)
    return Categories(ids, tuple(found[i] for i in ids)), parents if len(parents) < len(ids) else ()


def _agree(own: Categories, training: Categories, parents: tuple[int, ...], path: Path) -> Categories:
    """The training classes, if the file's own classes are among them under the same ids and names."""
    names = dict(zip(*_pair(training), strict=True))
    for number, name in zip(*_pair(own), strict=True):
        if names.get(number) != name and number not in parents:
            there = f"there {number} is {names[number]!r}" if number in names else f"there is no id {number} there"
            raise ClassMismatch(
                f"{path}: category {number} {name!r} does not agree with the training file ({there}). "
                "Both files must name the same classes with the same ids"
            )
    return training


def _chosen(categories: Categories, wanted: Sequence[str], path: Path) -> list[int]:
    """Ids of the classes of these names."""
    unknown = [name for name in wanted if name not in categories.names]
    if unknown or not wanted:
        near = get_close_matches(unknown[0], categories.names, n=1) if unknown else []
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"data.classes={wanted}: must be names of classes of {path}, which are {', '.join(categories.names)}.{hint}"
        )
    return [number for number, name in zip(*_pair(categories), strict=True) if name in wanted]
