"""Where a COCO-format folder keeps its files, and which file names may be followed."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ifpn.data.coco.defects import DataError

Split = str  # "train" or "val"

# Other names of the validation split that tools write
_ALIASES = {"train": ("train",), "val": ("val", "valid", "validation")}


@dataclass(frozen=True)
class SplitPaths:
    """The files of one split.

    annotations: the JSON file
    images:      folders in which its images may lie, the likeliest first (decided by the first file names)
    boundary:    folder that no image may lie outside of, links followed; None = links may lead anywhere
    """

    annotations: Path
    images: tuple[Path, ...]
    boundary: Path | None


def find_split(
    root: str | Path,
    split: Split,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
) -> SplitPaths:
    """Find the annotation file and image folder of a split ("train" or "val") of the COCO-format folder `root`.

    Known by themselves: `annotations/instances_train2017.json` with `train2017/` or `images/train2017/` (COCO's
    own, any year), `annotations/instances_train.json` with `images/`, `images/train/` or `train/`, and
    `train/_annotations.coco.json` beside its images. Explicit `annotations` and `images` are taken as given,
    relative to `root`.

    Raises DataError naming what was looked for.
    """
    if split not in _ALIASES:
        raise ValueError(f"split={split!r}: allowed are train, val")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"data.root={root} is not a folder. Give a COCO-format folder: data.root=FOLDER")
    file = _explicit(root, annotations, f"{split}_annotations") if annotations else _find_annotations(root, split)
    if not file.is_file():
        raise DataError(f"data.{split}_annotations: {file} is not a file")
    if images:
        folder = _explicit(root, images, f"{split}_images")
        if not folder.is_dir():
            raise DataError(f"data.{split}_images: {folder} is not a folder")
        return SplitPaths(file, (folder,), None if follow_links else folder.resolve())
    folders = [folder for folder in _image_folders(root, file, split) if folder.is_dir()]
    boundary = None if follow_links else root.resolve()
    if boundary is not None:
        inside = [folder for folder in folders if folder.resolve().is_relative_to(boundary)]
        if len(inside) < len(folders) and not any(folder != root for folder in inside):
            raise DataError(
                f"{folders[0]} is a link that leads out of {root}. "
                "If that is meant, allow it with data.follow_links=true"
            )
        folders = inside
    return SplitPaths(file, tuple(folders), boundary)


def _explicit(root: Path, given: str | Path, name: str) -> Path:
    if "\0" in str(given):
        raise DataError(f"data.{name}={str(given)!r} contains a NUL character")
    return root / Path(given).expanduser()


def _find_annotations(root: Path, split: Split) -> Path:
    found: list[Path] = []
    for alias in _ALIASES[split]:
        pattern = re.compile(rf"instances_{alias}\d*\.json")
        folder = root / "annotations"
        if folder.is_dir():
            found += sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))
        beside = root / alias / "_annotations.coco.json"
        found += [beside] if beside.is_file() else []
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path.relative_to(root)) for path in found)
        raise DataError(
            f"{root} has several annotation files for {split}: {names}. Name one with data.{split}_annotations=…"
        )
    raise DataError(
        f"{root} has no annotation file for {split}. Looked for annotations/instances_{split}.json, "
        f"annotations/instances_{split}2017.json (any year) and {split}/_annotations.coco.json. "
        f"Name yours with data.{split}_annotations=FILE data.{split}_images=FOLDER"
    )


def _image_folders(root: Path, annotations: Path, split: Split) -> list[Path]:
    if annotations.name == "_annotations.coco.json":
        return [annotations.parent]
    named = re.fullmatch(r"instances_(\w+)\.json", annotations.name)
    names = [named[1]] if named else []
    names += [alias for alias in _ALIASES[split] if alias not in names]
    candidates = [root / name for name in names] + [root / "images" / name for name in names]
    return [*candidates, root / "images", root]


def choose_folder(paths: SplitPaths, names: Iterable[str]) -> Path:
    """The first folder that holds one of the given file names; if none does, the first that exists."""
    probes = list(names)[:50]
    for folder in paths.images:
        if any((folder / variant).is_file() for name in probes for variant in unicode_variants(name)):
            return folder
    if not paths.images:
        raise DataError(
            f"No image folder found for {paths.annotations}: looked for a folder named like it, and images/. "
            "Name it with data.train_images=FOLDER or data.val_images=FOLDER"
        )
    return paths.images[0]


def unsafe_reason(name: str) -> str | None:
    """Why a file name of an annotation file may not be opened, or None if it may (links: see `resolve_file`)."""
    if not name:
        return "the name is empty"
    if "\0" in name:
        return "it contains a NUL character"
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError:
        return "it contains half a surrogate pair and cannot be a file name"
    if name.startswith("/") or re.match(r"[A-Za-z]:[\\/]", name) or name.startswith("\\\\"):
        return "it is an absolute path"
    parts = name.split("/")
    if ".." in parts or ".." in name.split("\\"):
        return "it leaves the image folder (..)"
    if len(raw) > 4000 or any(len(part.encode("utf-8")) > 255 for part in parts):
        return "a part of it is longer than 255 bytes, or all of it longer than 4000"
    if parts[-1] in ("", "."):
        return "it names a folder"
    return None


def unicode_variants(name: str) -> tuple[str, ...]:
    """The name as written, with accents composed (NFC), and decomposed (NFD): macOS changes them."""
    if name.isascii():
        return (name,)
    return tuple(dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))))


def resolve_file(folder: Path, name: str, boundary: Path | None) -> Path:
    """The file of an image, links followed: it exists inside `boundary`. Raises DataError or OSError."""
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
