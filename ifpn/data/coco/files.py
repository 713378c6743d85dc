"""From the file names of an annotation file to files in one folder: which may be opened, and which was meant."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from ifpn.data.coco.defects import DataError
from ifpn.data.decode import SUFFIXES

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]*/?")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_LABEL_STUDIO = re.compile(r"(?<![^/])[0-9a-f]{8}-(?=[^/]+$)")
_MOST_NAMES = 50_000  # in which the nearest name is looked for: about a second


def unsafe_reason(name: str) -> str | None:
    """Return why a file name may not be opened, or None if it may (links: see `resolve_file`)."""
    if not name:
        return "the name is empty"
    if "\0" in name:
        return "it contains a NUL character"
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError:
        return "it contains half a surrogate pair and cannot be a file name"
    if name.startswith("/") or _DRIVE.match(name) or name.startswith("\\\\"):
        return "it is an absolute path"
    parts = name.split("/")
    if ".." in parts or ".." in name.split("\\"):
        return "it leaves the image folder (..)"
    if len(raw) > 4000 or any(len(part.encode("utf-8")) > 255 for part in parts):
        return "a part of it is longer than 255 bytes, or all of it longer than 4000"
    if parts[-1] in ("", "."):
        return "it names a folder"
    return None


def relative_name(name: str) -> str:
    """Return an absolute path, or one with `..`, without the parts that lead out of the folder."""
    parts = _DRIVE.sub("", name).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def unicode_variants(name: str) -> tuple[str, ...]:
    """Return the name as written, with accents composed (NFC), and decomposed (NFD): macOS changes them."""
    if name.isascii():
        return (name,)
    return tuple(dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))))


def resolve_file(folder: Path, name: str, boundary: Path | None) -> Path:
    """Return the file of an image, links followed: it exists inside `boundary`.

    Raises:
        DataError: the name or the link leads out of the folder.
        OSError: there is no such file.
    """
    reason = unsafe_reason(name)
    if reason is not None:
        raise DataError(f"file name {name!r} refused: {reason}")
    for variant in unicode_variants(name):
        path = folder / variant
        try:
            real = os.path.realpath(path, strict=True)
        except FileNotFoundError:
            continue
        if boundary is not None and not Path(real).is_relative_to(boundary):
            raise DataError(
                f"{path} is a link that leads out of {boundary}. If that is meant, allow it with data.follow_links=true"
            )
        return Path(real)
    raise FileNotFoundError(f"{folder / name} does not exist")


class FolderListing:
    """The files of a folder, each folder in it listed once and only when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._folders: dict[str, frozenset[str]] = {}

    def holds(self, name: str) -> bool:
        """Return whether there is an entry of exactly this relative name, accents in any form."""
        for variant in unicode_variants(name):
            above, _, last = variant.rpartition("/")
            if above not in self._folders:
                try:
                    self._folders[above] = frozenset(entry.name for entry in (self.folder / above).iterdir())
                except (OSError, ValueError):
                    self._folders[above] = frozenset()
            if last in self._folders[above]:
                return True
        return False

    def matches(self, name: str) -> list[str]:
        """Return the files that a name written in another way can mean; one is the answer, several are none.

        Tried in turn: as written, with / for the backslash, of an address its path, percent signs decoded, without the
        number that Label Studio puts in front; each in any capitals, and with folders that only the name has, or only
        the disk; then all this with the ending of another picture format, or without one.
        """
        for reading in _readings(name):
            if unsafe_reason(reading) is None and self.holds(reading):
                return [reading]
        for files, spelled in ((self._below, _folded), (self._stems, _stem)):
            for reading in _readings(name):
                wanted = spelled(reading)
                same = files.get(wanted.rpartition("/")[2], [])
                shorter = [file for file in same if f"/{wanted}".endswith(f"/{spelled(file)}")]
                depth = max((file.count("/") for file in shorter), default=0)
                found = [file for file in shorter if file.count("/") == depth]
                found = found or [file for file in same if spelled(file).endswith(f"/{wanted}")]
                if found:
                    return found
        return []

    def nearest(self, name: str) -> str | None:
        """Return the file whose name is most like this one, if any is like it."""
        last = _folded(name.replace("\\", "/")).rpartition("/")[2]
        names = list(self._below)[:_MOST_NAMES]
        found = difflib.get_close_matches(last, names, n=1, cutoff=0.6)
        return self._below[found[0]][0] if found else None

    @cached_property
    def _below(self) -> dict[str, list[str]]:
        """All files of the folder and of the folders in it, by their folded last name."""
        found: dict[str, list[str]] = defaultdict(list)
        for above, folders, names in os.walk(self.folder):
            folders.sort()  # what a message names must not depend on the file system
            relative = Path(above).relative_to(self.folder).as_posix()
            for name in sorted(names):
                found[_folded(name)].append(name if relative == "." else f"{relative}/{name}")
        return dict(found)

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        """The pictures among them, by their folded last name without its ending."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, files in self._below.items():
            if name.endswith(SUFFIXES):
                found[_stem(name)] += files
        return dict(found)


def match_names(listing: FolderListing, names: Sequence[str]) -> tuple[dict[int, str], dict[int, str]]:
    """Find the file of each image.

    Returns:
        The names as they are on disk where they differ from those written, and what is wrong with images without a
        file, both by position.
    """
    renamed: dict[int, str] = {}
    missing: dict[int, str] = {}
    owners: dict[str, set[str]] = defaultdict(set)
    for i, name in enumerate(names):
        if listing.holds(name):
            continue
        found = listing.matches(name)
        if len(found) == 1:
            renamed[i] = found[0]
            owners[found[0]].add(name)
        elif found:
            missing[i] = f"{name!r} may be {' or '.join(map(repr, found[:3]))}"
        else:
            missing[i] = repr(name)
    taken = set(names) if renamed else set()
    for i, file in list(renamed.items()):
        several = owners[file] | (taken & {file})
        if len(several) > 1:  # several names for one file: none of them is certain
            missing[i] = f"{' and '.join(map(repr, sorted(several)[:3]))} may both be {file!r}"
            del renamed[i]
    return renamed, missing


def _readings(name: str) -> Iterator[str]:
    path = _ADDRESS.sub("", name)
    # behind ?d= is the path of a file that Label Studio served itself
    for part in dict.fromkeys((path, path.partition("?")[0], path.rpartition("?d=")[2])):
        for reading in (part, part.replace("\\", "/")):
            for spelled in (reading, unquote(reading), _LABEL_STUDIO.sub("", reading)):
                yield "/".join(piece for piece in spelled.split("/") if piece not in ("", "."))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _stem(name: str) -> str:
    folded = _folded(name)
    return folded.rpartition(".")[0] if folded.endswith(SUFFIXES) else folded
