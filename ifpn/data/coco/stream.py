"""Reading a large COCO JSON entry by entry, so that hundreds of megabytes never become Python objects."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from pathlib import Path

from ifpn.data.coco.defects import DataError

_SPACE = re.compile(r"[ \t\n\r]*")
_LISTS = ("images", "annotations", "categories")


def stream_coco(path: Path) -> Iterator[tuple[str, object]]:
    """Yield (section, entry) for every entry of "images", "annotations" and "categories", in the file's
    order.

    Each section found yields (section, None) first, so that an empty one differs from a missing one. Other
    sections are checked for syntax and passed over. Raises DataError for anything that is not such a JSON
    file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): it must be a COCO-format JSON file") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        yield from _sections(text, path)
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply to be a COCO-format file") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not valid JSON: {error}") from error  # e.g. a number of thousands of digits


def _sections(text: str, path: Path) -> Iterator[tuple[str, object]]:
    parse = json.JSONDecoder().raw_decode
    at = _skip(text, 0)
    if at >= len(text):
        raise DataError(f"{path} is empty: it must be a COCO-format JSON file")
    if text[at] != "{":
        raise DataError(
            f"{path} must hold an object with images, annotations and categories, not {text[at : at + 20]!r}"
        )
    seen: set[str] = set()
    at = _skip(text, at + 1)
    if _is(text, at, "}"):
        return
    while True:
        key, at = parse(text, _expect(text, at, '"') - 1)
        at = _skip(text, _expect(text, _skip(text, at), ":"))
        if key in seen:
            raise DataError(f"{path} has two sections named {key!r}")
        seen.add(key)
        if key in _LISTS:
            if not _is(text, at, "["):
                raise DataError(f"{path}: {key!r} must be a list")
            yield key, None
            at = yield from _entries(text, at, key)
        else:
            _, at = parse(text, at)
        at = _skip(text, at)
        if _is(text, at, "}"):
            break
        at = _skip(text, _expect(text, at, ","))
    if _skip(text, at + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, at + 1)


def _entries(text: str, at: int, key: str) -> Generator[tuple[str, object], None, int]:
    """Yield the entries of the list that begins at `at`; returns the place after it."""
    parse = json.JSONDecoder().raw_decode
    skip = _SPACE.match
    at = _skip(text, at + 1)
    if _is(text, at, "]"):
        return at + 1
    while True:
        entry, at = parse(text, at)
        yield key, entry
        if text[at : at + 2] == ", ":  # what json.dump writes
            at += 2
            if text[at : at + 1] not in " \t\n\r":
                continue
        else:
            at = _skip(text, at)
            if _is(text, at, "]"):
                return at + 1
            at = _expect(text, at, ",")
        space = skip(text, at)
        at = space.end() if space else at


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _is(text: str, at: int, mark: str) -> bool:
    return text[at : at + 1] == mark


def _expect(text: str, at: int, mark: str) -> int:
    if not _is(text, at, mark):
        raise json.JSONDecodeError(f"Expecting {mark!r}", text, at)
    return at + 1
