"""Class names in any script: in DejaVu Sans, else in a font of the system that has the letters, else as a number."""

from __future__ import annotations

import logging
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

DEJAVU = "DejaVu Sans"  # matplotlib ships it; it covers Latin, Greek and Cyrillic
_BESIDE = frozenset(string.ascii_letters + string.digits + string.punctuation)  # a score stands beside a name
_EMPTY = ("Last Resort", "Adobe Blank")  # fonts that show every letter as a box, or not at all


def font(size: int, text: str = "", *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font for `text` in `size` pixels; DejaVu Sans where nothing has all letters."""
    face = _face(_letters(text))
    if face is None or face.name == DEJAVU:
        return _opened(font_manager.findfont(f"{DEJAVU}:{'bold' if bold else 'regular'}"), size)
    return _opened(face.fname, size)


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class as it can be drawn: "class 3" where no font has the letters, or there is no name."""
    name = " ".join(names[label].split()) if 0 <= label < len(names) else ""
    return name if name and _face(_letters(name)) is not None else f"class {label}"


def class_names(names: Sequence[str]) -> list[str]:
    """`class_name` of all."""
    return [class_name(names, label) for label in range(len(names))]


def families(texts: Iterable[str]) -> list[str]:
    """Font families for matplotlib: DejaVu Sans, then those that the letters of `texts` need."""
    found = (_face(_letters(text)) for text in texts)
    return list(dict.fromkeys([DEJAVU, *(face.name for face in found if face is not None)]))


def _letters(text: str) -> frozenset[str]:
    """Characters that leave a mark; spaces, joiners and directions do not."""
    return frozenset(c for c in text if unicodedata.category(c)[0] not in "CZ")


@cache
def _face(letters: frozenset[str]) -> font_manager.FontEntry | None:
    """DejaVu Sans, or else the regular face of the first family by name that has all letters and ASCII."""
    upright = [f for f in font_manager.fontManager.ttflist if f.style == "normal" and not f.name.startswith(_EMPTY)]
    for face in sorted(upright, key=lambda f: (f.name != DEJAVU, abs(_weight(f.weight) - 400), f.name, f.fname)):
        if _has(face.fname, letters | _BESIDE):
            return face
    return None


def _weight(weight: object) -> int:
    return weight if isinstance(weight, int) else font_manager.weight_dict.get(str(weight), 400)


def _has(file: str, letters: frozenset[str]) -> bool:
    try:
        face = FT2Font(file)
    except (OSError, RuntimeError):  # gone since matplotlib made its list, or of a format that it does not read
        return False
    return face.scalable and all(face.get_char_index(ord(letter)) for letter in letters)


@cache
def _opened(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@contextmanager
def no_weights_missed() -> Iterator[None]:
    """Keep matplotlib from saying that a font which was found for its letters has no bold face."""
    log = logging.getLogger("matplotlib.font_manager")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
