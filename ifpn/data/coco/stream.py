"""Reading a large COCO JSON entry by entry, so that hundreds of megabytes never become Python objects."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import zlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from ifpn.data.coco.defects import DataError
from ifpn.reading import read_bytes

_SPACE = re.compile(r"[ \t\n\r]*")
LARGEST = 2**33  # bytes of a file, unpacked; ten times the largest that is published
LISTS = ("images", "annotations", "categories")
_TELLTALES = {
    '"imagePath"': "labelme's own format: convert it to COCO's",
    '"_via_img_metadata"': "VIA's own format: export it as COCO",
    '"region_attributes"': "VIA's own format: export it as COCO",
    '"completed_by"': "Label Studio's own format: export it as COCO",
    '"score"': "a list of predictions, and the annotations are needed",
}


def read_text(path: Path) -> str:
    """Return the text of a JSON file in any Unicode encoding, with or without a byte order mark, gzipped or not.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    try:
        content = read_bytes(path, LARGEST)
        if content[:2] == b"\x1f\x8b":
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1)
        if len(content) > LARGEST:
            raise DataError(f"{path} unpacks to more than {LARGEST} bytes")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if content[:4] == b"PK\x03\x04":
        raise DataError(f"{path} is a zip archive: unpack it, and name the JSON file that was in it")
    encoding = json.detect_encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.upper().removesuffix("-SIG")
        raise DataError(
            f"{path} is not {name} text (byte {error.start}): it must be a JSON file. Save it as UTF-8"
        ) from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file as Python objects.

    Raises:
        DataError: it cannot be read, or is no JSON; names the place.
    """
    text = read_text(path)
    with _explained(text, path):
        return json.loads(text)


def stream_coco(source: Path | Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield (section, entry) for every entry of "images", "annotations" and "categories", in the file's order.

    Each section found yields (section, None) first, so that an empty one differs from a missing one. Other sections
    are checked for syntax and passed over.

    Args:
        source: the file, or its content.

    Raises:
        DataError: anything that is not such a JSON file.
    """
    if isinstance(source, Path):
        text = read_text(source)
        with _explained(text, source):
            yield from _sections(text, source)
        return
    for key in LISTS:
        if key in source:
            if not isinstance(source[key], list | tuple):
                raise DataError(f"the given annotations: {key!r} must be a list")
            yield key, None
            yield from ((key, entry) for entry in source[key])


@contextlib.contextmanager
def _explained(text: str, path: Path) -> Iterator[None]:
    """Turn what a JSON parser raises into a DataError that names the file and the place."""
    try:
        yield
    except DataError:
        raise
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply to be a COCO-format file") from error
    except json.JSONDecodeError as error:
        place = f"at line {error.lineno} column {error.colno}"
        if re.search(r",\s*[\]}]", text[max(0, error.pos - 100) : error.pos + 100]):
            place += ". Take away the comma that stands before ] or }"
        raise DataError(f"{path} is not valid JSON: {error.msg} {place}") from error
    except ValueError as error:  # e.g. a number of thousands of digits
        raise DataError(f"{path} is not valid JSON: {error}") from error


def _sections(text: str, path: Path) -> Iterator[tuple[str, object]]:
    parse = json.JSONDecoder().raw_decode
    at = _skip(text, 0)
    if at >= len(text):
        raise DataError(f"{path} is empty: it must be a COCO-format JSON file")
    if text[at] != "{":
        raise DataError(
            f"{path} must hold an object with images, annotations and categories, not {text[at : at + 20]!r}."
            f"{_foreign(text)}"
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
        if key in LISTS:
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
    if not seen.intersection(LISTS) and _foreign(text):
        raise DataError(f"{path} has no section {', '.join(LISTS)}.{_foreign(text)}")


def _foreign(text: str) -> str:
    """Name the tool whose own format a text seems to be, as a sentence; empty if none is recognised."""
    tool = next((tool for mark, tool in _TELLTALES.items() if mark in text[:20_000]), None)
    return f" It looks like {tool}" if tool else ""


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
