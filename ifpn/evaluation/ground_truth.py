"""What the images really show, read from a COCO annotation file and checked for what evaluation needs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifpn.errors import UserError

Annotation = dict[str, Any]


@dataclass(frozen=True)
class GroundTruth:
    """Images, classes and boxes of one data set.

    Attributes:
        image_ids: ids of all images, ascending.
        category_names: {official id: name}, in the file's order.
        annotations: one dict per box with ``id`` (1..), ``image_id``, ``category_id``, ``bbox`` [x, y, w, h]
            in pixels, ``area`` (the file's, which for COCO is the mask's) and ``iscrowd`` (0 or 1).
        source: where it came from, for messages.
    """

    image_ids: tuple[int, ...]
    category_names: Mapping[int, str]
    annotations: tuple[Annotation, ...]
    source: str

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any] | GroundTruth | Any) -> GroundTruth:
        """From the path of an annotation file, its loaded content, or a ``pycocotools.coco.COCO`` object.

        A missing ``iscrowd`` means 0 and a missing ``area`` the box's. Annotation ids are renumbered from 1,
        in the file's order: COCO's matching takes id 0 for "no match", and loses boxes whose ids repeat.
        Boxes of images or classes that the file does not list are left out, as COCO's own evaluation does.

        Raises:
            UserError: not a COCO annotation file, or a box that is no four finite numbers; names what and
                where.
        """
        if isinstance(source, GroundTruth):
            return source
        if isinstance(source, (str, Path)):
            name, content = str(source), _read_json(Path(source))
        else:
            name, content = "the given annotations", getattr(source, "dataset", source)
        if not isinstance(content, Mapping):
            raise UserError(f"{name} is no COCO annotation file: it holds a {type(content).__name__}, not an object")
        images = [
            _whole(entry, "id", f"{name}: image {i}") for i, entry in enumerate(_entries(content, "images", name))
        ]
        categories = {
            _whole(entry, "id", f"{name}: category {i}"): str(entry.get("name", entry["id"]))
            for i, entry in enumerate(_entries(content, "categories", name))
        }
        known = frozenset(images)
        annotations: list[Annotation] = []
        for i, entry in enumerate(_entries(content, "annotations", name)):
            annotation = _annotation(entry, f"{name}: annotation {entry.get('id', f'at position {i}')!r}")
            if annotation["image_id"] in known and annotation["category_id"] in categories:
                annotation["id"] = len(annotations) + 1
                annotations.append(annotation)
        return cls(tuple(sorted(known)), categories, tuple(annotations), name)

    def subset(self, image_ids: Iterable[int]) -> GroundTruth:
        """The same with only the given images."""
        kept = frozenset(image_ids)
        annotations = tuple(a for a in self.annotations if a["image_id"] in kept)
        return GroundTruth(tuple(sorted(kept)), self.category_names, annotations, self.source)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"annotation file {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"annotation file {path} is not valid JSON: {error}") from error


def _entries(content: Mapping[str, Any], key: str, name: str) -> list[Mapping[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise UserError(f"{name} is no COCO annotation file: it has no list of objects under {key!r}")
    return entries


def _whole(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: {key}={value!r} is not a whole number")
    return value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _annotation(entry: Mapping[str, Any], where: str) -> Annotation:
    box = entry.get("bbox")
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(_number(value) for value in box):
        raise UserError(f"{where}: bbox={box!r} is not [x, y, width, height] in finite numbers; fix or remove it")
    area = entry.get("area", box[2] * box[3])
    if not _number(area):
        raise UserError(f"{where}: area={area!r} is not a finite number; fix or remove it")
    return {
        "image_id": _whole(entry, "image_id", where),
        "category_id": _whole(entry, "category_id", where),
        "bbox": [float(value) for value in box],
        "area": float(area),
        "iscrowd": int(bool(entry.get("iscrowd", 0))),
    }
