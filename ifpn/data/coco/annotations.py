"""COCO annotation files as a few numpy arrays: small, checked, shared by loader workers without copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifpn.data.coco.defects import DataError, DefectLog, DefectPolicy
from ifpn.data.coco.rows import RawAnnotations, check_rows, read_rows

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


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

    image_ids (I,), sizes (I, 2) as width, height; box_xyxy (B, 4) float32 in pixels, clipped to the image;
    box_xywh (B, 4) float64 as written; label (B,) class number from 0; usable (B,) = may be
    trained on: not a crowd region and without a defect that drops it.
    """

    path: Path
    categories: Categories
    image_ids: Ints
    sizes: NDArray[np.int32]
    start: Ints
    annotation_ids: Ints
    box_xyxy: Floats
    box_xywh: Doubles
    area: Doubles
    label: NDArray[np.int32]
    crowd: Bools
    usable: Bools
    log: DefectLog
    has_boxes: bool
    _name_bytes: NDArray[np.uint8]
    _name_start: Ints

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def file_name(self, i: int) -> str:
        """File name of image i as written in the file."""
        return self._name_bytes[self._name_start[i] : self._name_start[i + 1]].tobytes().decode("utf-8")

    def boxes(self, i: int) -> tuple[Floats, NDArray[np.int32]]:
        """Boxes (M, 4) xyxy and labels (M,) of image i that may be trained on."""
        rows = slice(self.start[i], self.start[i + 1])
        keep = self.usable[rows]
        return self.box_xyxy[rows][keep], self.label[rows][keep]

    def boxes_per_image(self) -> Ints:
        """Number of usable boxes of each image (I,)."""
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.usable, dtype=np.int64)])
        counts: Ints = total[self.start[1:]] - total[self.start[:-1]]
        return counts

    def to_coco(self) -> dict[str, list[dict[str, Any]]]:
        """The ground truth as pycocotools reads it, official ids, crowd regions included, boxes as written.

        Left out are only entries that no evaluation can use: malformed, of unknown image or category, duplicate,
        not finite, of negative size. Tiny boxes and boxes over the edge stay, as in COCO's own evaluation.
        """
        owner = np.repeat(np.arange(len(self)), np.diff(self.start))
        annotations = [
            {
                "id": row + 1,  # pycocotools takes id 0 for "no match", so that official ids are not safe here
                "image_id": int(self.image_ids[owner[row]]),
                "category_id": self.categories.ids[self.label[row]],
                "bbox": self.box_xywh[row].tolist(),
                "area": float(self.area[row]),
                "iscrowd": int(self.crowd[row]),
            }
            for row in range(len(owner))
        ]
        images = [
            {"id": int(self.image_ids[i]), "file_name": self.file_name(i), "width": int(w), "height": int(h)}
            for i, (w, h) in enumerate(self.sizes)
        ]
        pairs = zip(self.categories.ids, self.categories.names, strict=True)
        return {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": n} for i, n in pairs],
        }


def load_annotations(
    path: str | Path,
    *,
    policy: DefectPolicy,
    categories: Categories | None = None,
    boxes_required: bool = True,
    keep_defects: int = 1000,
) -> CocoAnnotations:
    """Read a COCO-format annotation file.

    policy:         what to do with each kind of defect
    categories:     classes of the training file, for a validation file, which may use these and no others
    boxes_required: False accepts a file without "annotations" (COCO's image_info_test-dev2017.json)
    keep_defects:   how many defects of each kind are kept in full (all are counted)

    Raises DataError for a file that is not of this format, for defects the policy refuses, and for too many
    dropped.
    """
    path = Path(path)
    log = DefectLog(keep=keep_defects)
    raw = read_rows(path, log)
    _require_sections(raw, path, boxes_required)
    own = _categories(raw.category_entries, path)
    known = own if categories is None else _agree(own, categories, path)
    checked = check_rows(raw, np.asarray(known.ids, dtype=np.int64), policy, log)
    log.refuse(path, policy, raw.total_annotations)
    if len(raw.names) == 0:
        raise DataError(f"{path} has no usable images")
    encoded = [name.encode("utf-8") for name in raw.names]
    return CocoAnnotations(
        path=path,
        categories=known,
        image_ids=raw.image_ids(),
        sizes=raw.sizes(),
        start=checked.start,
        annotation_ids=checked.annotation_ids,
        box_xyxy=checked.box_xyxy,
        box_xywh=checked.box_xywh,
        area=checked.area,
        label=checked.label,
        crowd=checked.crowd,
        usable=checked.usable,
        log=log,
        has_boxes="annotations" in raw.sections,
        _name_bytes=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        _name_start=np.concatenate([[0], np.cumsum([len(name) for name in encoded])]).astype(np.int64),
    )


def _require_sections(raw: RawAnnotations, path: Path, boxes_required: bool) -> None:
    needed = ["images", "categories"] + (["annotations"] if boxes_required else [])
    missing = [section for section in needed if section not in raw.sections]
    if missing:
        raise DataError(f"{path} has no section {', '.join(missing)}: it needs images, annotations and categories")


def _categories(entries: list[object], path: Path) -> Categories:
    found: dict[int, str] = {}
    for position, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if type(number) is not int or not 0 <= number < 2**31 or not isinstance(name, str) or not name:
            raise DataError(
                f"{path}: category number {position} needs an id (a whole number from 0 on) "
                f"and a name (text), but is {str(entry)[:80]}"
            )
        if number in found:
            raise DataError(f"{path}: two categories have the id {number}: {found[number]!r} and {name!r}")
        found[number] = name
    if not found:
        raise DataError(f"{path} has no categories: at least one class is needed")
    ids = tuple(sorted(found))
    return Categories(ids, tuple(found[i] for i in ids))


def _agree(own: Categories, training: Categories, path: Path) -> Categories:
    """The training classes, if the file's own classes are among them under the same ids and names."""
    names = dict(zip(training.ids, training.names, strict=True))
    for number, name in zip(own.ids, own.names, strict=True):
        if names.get(number) != name:
            there = f"there {number} is {names[number]!r}" if number in names else f"there is no id {number} there"
            raise ClassMismatch(
                f"{path}: category {number} {name!r} does not agree with the training file ({there}). "
                "Both files must name the same classes with the same ids"
            )
    return training
