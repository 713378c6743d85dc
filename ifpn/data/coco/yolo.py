"""YOLO folders read as COCO entries: data.yaml names classes and folders, a text file beside each image its objects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ifpn.data.coco.defects import DataError
from ifpn.data.coco.values import as_whole
from ifpn.data.decode import SUFFIXES, BadImage, image_size
from ifpn.errors import ConfigError
from ifpn.reading import read_bytes, read_yaml

_KEYS = {"train": ("train",), "val": ("val", "valid", "validation")}


def is_yolo(path: Path, split: str | None = None) -> bool:
    """Return whether a file is the data.yaml of a YOLO folder (that names this split)."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    try:
        content = _content(path)
    except DataError:
        return False
    return "names" in content and (split is None or any(content.get(key) for key in _KEYS[split]))


def stream_yolo(path: Path, split: str) -> Iterator[tuple[str, object]]:
    """Yield the entries of one split as `stream_coco` does: ids by place, categories by YOLO's class numbers.

    A line is `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 …` (a polygon, whose box is taken) in shares of the
    picture's sides; a sixth number after a box (a score) is passed over, and so are key points (`kpt_shape` in
    data.yaml). An image without a text file has no objects.

    Raises:
        DataError: the file is not a data.yaml, or names no folder of this split that is there.
    """
    content = _content(path)
    names = content.get("names")
    numbered = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else ())
    yield "categories", None
    for number, name in numbered:
        yield "categories", {"id": number, "name": str(name)}
    yield "images", None
    yield "annotations", None
    points = _key_points(path, content)
    annotation = 0
    for number, image in enumerate(_images(path, content, split), start=1):
        entry: dict[str, Any] = {"id": number, "file_name": image.relative_to(path.parent).as_posix()}
        with contextlib.suppress(BadImage):  # found again, and reported, where sizes are measured
            entry["width"], entry["height"] = image_size(image)
        yield "images", entry
        for line, text in enumerate(_lines(_label_file(image)), start=1):
            annotation += 1
            label, box = _object(text, entry.get("width", 1), entry.get("height", 1), points)
            bbox = box if box is not None else f"line {line} of {_label_file(image).name}: {text:.60}"
            yield "annotations", {"id": annotation, "image_id": number, "category_id": label, "bbox": bbox}


def _content(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except ConfigError as error:
        raise DataError(str(error).rstrip(".")) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not the data.yaml of a YOLO folder: it needs names, train and val")
    return content


def _images(path: Path, content: dict[str, Any], split: str) -> list[Path]:
    given = next((content[key] for key in _KEYS[split] if content.get(key)), None)
    if given is None:
        raise DataError(f"{path} names no folder for {split}")
    found: list[Path] = []
    for name in given if isinstance(given, list) else [given]:
        source = _source(path.parent, str(content.get("path") or ""), str(name))
        if source is None:
            raise DataError(f"{path}: {split}: {name} is not a folder, or a list of files, below {path.parent}")
        if source.is_dir():
            found += sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES)
        else:
            listed = (_source(path.parent, "", line) for line in _lines(source))
            found += [file for file in listed if file is not None]
    return found


def _source(root: Path, base: str, name: str) -> Path | None:
    """A folder or file below `root`: exporters write paths of their own machine, and ../ too many."""
    parts = [part for part in f"{base}/{name}".replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        path = root.joinpath(*parts[start:])
        if path.exists():
            return path
    return None


def _label_file(image: Path) -> Path:
    """The text file of an image: the last folder `images` of its path replaced by `labels`, or beside it."""
    parts = list(image.parts)
    for k in range(len(parts) - 2, -1, -1):
        if parts[k] == "images":
            return Path(*parts[:k], "labels", *parts[k + 1 :]).with_suffix(".txt")
    return image.with_suffix(".txt")


def _lines(path: Path) -> list[str]:
    try:
        text = read_bytes(path).decode("utf-8-sig", errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _key_points(path: Path, content: dict[str, Any]) -> int:
    """How many numbers follow the box of a pose; 0 for a set without key points."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    whole = isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape)
    if not whole:
        raise DataError(f"{path}: kpt_shape={shape}: must be two whole numbers, of key points and of numbers for each")
    return int(shape[0]) * int(shape[1])


def _object(text: str, width: int, height: int, points: int) -> tuple[object, list[float] | None]:
    """Class number and box in pixels of one line, `points` numbers behind it; no box where the line is not one."""
    first, *rest = text.split()
    label = first if as_whole(first) is None else as_whole(first)
    try:
        values = [float(value) for value in rest]
    except ValueError:
        return label, None
    if len(values) in ((4 + points, 5 + points) if points else (4, 5)):
        x, y, w, h = values[:4]
        left, top = x - w / 2, y - h / 2
    elif not points and len(values) >= 6 and len(values) % 2 == 0:
        left, top = min(values[::2]), min(values[1::2])
        w, h = max(values[::2]) - left, max(values[1::2]) - top
    else:
        return label, None
    return label, [left * width, top * height, w * width, h * height]
