"""What a JSON value means: numbers, ids and flags of another type, boxes by name, boxes of polygons and masks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)
# Keys of a box written as an object, and what its third and fourth number are
_NAMED_BOXES = (
    (("x", "y", "width", "height"), "size"),
    (("x", "y", "w", "h"), "size"),
    (("left", "top", "width", "height"), "size"),
    (("x1", "y1", "x2", "y2"), "corner"),
    (("xmin", "ymin", "xmax", "ymax"), "corner"),
    (("x_min", "y_min", "x_max", "y_max"), "corner"),
    (("left", "top", "right", "bottom"), "corner"),
)
Box = tuple[float, float, float, float]


def as_number(value: object) -> float | None:
    """Return the number that `value` is or that its text is; None for anything else, true and false included."""
    if type(value) is str and _NUMBER.fullmatch(value):
        value = float(value)
    if type(value) is not int and type(value) is not float:
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_whole(value: object) -> int | None:
    """Return the 64-bit whole number that `value` is (7, 7.0) or that its text is ("7"); None for anything else."""
    if type(value) is str and _NUMBER.fullmatch(value):
        value = int(value) if value.strip().lstrip("+-").isdigit() and len(value) < 30 else float(value)
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def as_flag(value: object) -> int | None:
    """Return `iscrowd` as 0 or 1: a number, true or false, the text of these, null for 0; None for anything else."""
    if type(value) is str and value.lower() in ("true", "false"):
        value = value.lower() == "true"
    if value is None or type(value) is bool:
        return int(bool(value))
    number = as_number(value)
    return int(number) if number in (0, 1) else None


def as_box(value: object) -> Box | None:
    """Return four numbers of `bbox`: a list of them, such a list in a list, or an object with the usual names.

    An object that names corners is returned as x, y, width, height; a list is returned as it stands.
    """
    if isinstance(value, Mapping):
        lowered = {str(key).lower(): item for key, item in value.items()}
        for keys, third in _NAMED_BOXES:
            if all(key in lowered for key in keys):
                four = as_box([lowered[key] for key in keys])
                if four is None or third == "size":
                    return four
                return (four[0], four[1], four[2] - four[0], four[3] - four[1])
        return None
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
        value = value[0]
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None
    x, y, w, h = (as_number(item) for item in value)
    return None if x is None or y is None or w is None or h is None else (x, y, w, h)


def box_around(segmentation: object) -> Box | None:
    """Return x, y, width, height around polygons (flat or as points) or a mask in COCO's RLE; None if it is none."""
    if isinstance(segmentation, Mapping):
        return _box_of_mask(segmentation)
    flat: list[float] = []
    if not isinstance(segmentation, list) or not _flatten(segmentation, flat, 0) or len(flat) < 6 or len(flat) % 2:
        return None
    xs, ys = flat[::2], flat[1::2]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def _flatten(values: list[Any], into: list[float], depth: int) -> bool:
    for value in values:
        if isinstance(value, list):
            if depth == 3 or not _flatten(value, into, depth + 1):
                return False
        else:
            number = as_number(value)
            if number is None or not math.isfinite(number):
                return False
            into.append(number)
    return True


def _box_of_mask(mask: Mapping[str, Any]) -> Box | None:
    """Box of run lengths over the columns of an image, 0 first, as a list or as COCO's text of them."""
    size, runs = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        return None
    height, width = as_whole(size[0]), as_whole(size[1])
    runs = runs.decode("latin-1") if isinstance(runs, bytes) else runs
    lengths = _uncompressed(runs) if isinstance(runs, str) else runs
    if not height or not width or min(height, width) < 1 or not isinstance(lengths, list):
        return None
    left, top, right, bottom, at = width, height, 0, 0, 0
    for k, length in enumerate(lengths):
        if type(length) is not int or length < 0:
            return None
        if k % 2 and length:
            (first, low), (last, high) = divmod(at, height), divmod(at + length - 1, height)
            left, right = min(left, first), max(right, last + 1)
            top, bottom = (0, height) if last > first else (min(top, low), max(bottom, high + 1))
        at += length
    return (left, top, right - left, bottom - top) if right and at <= height * width else None


def _uncompressed(text: str) -> list[int] | None:
    """Run lengths of COCO's compressed RLE: 5 bits a character, and from the third on the difference to two before."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths
