"""Where a folder keeps its annotation files and images: the layouts that tools write."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ifpn.data.coco.defects import DataError
from ifpn.data.coco.files import FolderListing, match_names, resolve_file, unicode_variants
from ifpn.data.coco.yolo import is_yolo
from ifpn.data.decode import BadImage, image_size

Split = str  # "train" or "val"

# Names that tools give the splits
_ALIASES = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
# Words in names of files that are no annotations of boxes
_OTHER = {"captions", "keypoints", "panoptic", "stuff", "info", "test", "predictions", "results", "metadata"}
_PLAIN = {"instances", "annotations", "annotation", "coco", "labels", "label", "default", "result", "data"}
_DEPTH = 3  # folders below the root in which JSON files are looked for
_GLANCE = 65_536  # bytes of a JSON file in which one of COCO's sections must begin


@dataclass(frozen=True)
class SplitPaths:
    """The files of one split.

    Attributes:
        annotations: the JSON file, or the data.yaml of a YOLO folder.
        images: folders in which its images may lie, the likeliest first (decided by the first file names).
        boundary: folder that no image may lie outside of, links followed; None: links may lead anywhere.
        split: "train" or "val".
    """

    annotations: Path
    images: tuple[Path, ...]
    boundary: Path | None
    split: Split = "train"

    def measure(self, names: Sequence[str], wanted: Sequence[int]) -> dict[int, tuple[int, int] | str]:
        """Return width and height of some of the images from the headers of their files, or why there is none."""
        folder = choose_folder(self, names)
        renamed, missing = match_names(FolderListing(folder), names)
        sizes: dict[int, tuple[int, int] | str] = {}
        for i in wanted:
            try:
                if i in missing:
                    raise DataError(f"the file {missing[i]} is not in {folder}")
                sizes[i] = image_size(resolve_file(folder, renamed.get(i, names[i]), self.boundary))
            except (DataError, BadImage, OSError) as error:
                sizes[i] = str(error)
        return sizes


def find_split(
    root: str | Path,
    split: Split,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
    unsplit: bool = False,
) -> SplitPaths:
    """Find the annotation file and image folder of a split of the folder `root`.

    Known are the layouts of COCO, CVAT, Roboflow, FiftyOne, Label Studio, mmdet and YOLO, in any capitals: a JSON file
    or its folder is named after the split, images lie beside it or in a folder named `images`, `data` or as the split.

    Args:
        root: the folder.
        split: "train" or "val".
        annotations: the annotation file, relative to `root`; None: looked for.
        images: the image folder, relative to `root`; None: looked for.
        follow_links: whether links may lead out of the folder.
        unsplit: whether a single annotation file that names no split is taken.

    Raises:
        DataError: not found, or several that could be meant; names the files that are there.
    """
    if split not in _ALIASES:
        raise ValueError(f"split={split!r}: allowed are train, val")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"data.root={root} is not a folder. Give a COCO-format folder: data.root=FOLDER")
    if annotations:
        file = _explicit(root, annotations, f"{split}_annotations")
    else:
        file = _find_annotations(root, split, unsplit)
    if not file.is_file():
        raise DataError(f"data.{split}_annotations: {file} is not a file")
    if images:
        folder = _explicit(root, images, f"{split}_images")
        if not folder.is_dir():
            raise DataError(f"data.{split}_images: {folder} is not a folder")
        return SplitPaths(file, (folder,), None if follow_links else folder.resolve(), split)
    if is_yolo(file):
        return SplitPaths(file, (file.parent,), None if follow_links else root.resolve(), split)
    folders = _image_folders(root, file, split)
    boundary = None if follow_links else root.resolve()
    if boundary is not None:
        inside = [folder for folder in folders if folder.resolve().is_relative_to(boundary)]
        if len(inside) < len(folders) and not any(folder != root for folder in inside):
            raise DataError(
                f"{folders[0]} is a link that leads out of {root}. "
                "If that is meant, allow it with data.follow_links=true"
            )
        folders = inside
    return SplitPaths(file, tuple(folders), boundary, split)


def _explicit(root: Path, given: str | Path, name: str) -> Path:
    if "\0" in str(given):
        raise DataError(f"data.{name}={str(given)!r} contains a NUL character")
    return root / Path(given).expanduser()


def _find_annotations(root: Path, split: Split, unsplit: bool) -> Path:
    files, _ = _walk(root)
    found = _conventional(root, files, split) or _named_after(root, files, split)
    if not found:
        found = [path for path in sorted(root.iterdir()) if path.is_file() and is_yolo(path, split)]
    if not found and unsplit:
        found = [path for path in files if not _words(root, path) & {*_OTHER, *_ALIASES["val"]} and _looks_coco(path)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.relative_to(root).as_posix() for path in found)
        raise DataError(
            f"{root} has several annotation files for {split}: {names}. Name one with data.{split}_annotations=…"
        )
    hold_back = (
        "Or hold back a share of the training images: data.val_share=0.1; or train without: data.val_share=0"
        if split == "val"
        else "If one file holds all images, hold back a share of them for validation: data.val_share=0.1"
    )
    raise DataError(
        f"{root} has no annotation file for {split}. Looked for annotations/instances_{split}.json (any year), "
        f"{split}/_annotations.coco.json, other JSON files named {' or '.join(_ALIASES[split])}, and data.yaml. "
        f"{_contents(root, files)}Name yours with data.{split}_annotations=FILE data.{split}_images=FOLDER. {hold_back}"
    )


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """JSON files and folders of a folder, some levels deep."""
    files: list[Path] = []
    found: list[Path] = []
    for above, folders, names in os.walk(root):
        deep = len(Path(above).relative_to(root).parts) >= _DEPTH - 1
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        found += [Path(above, name) for name in folders]
        files += [Path(above, name) for name in sorted(names) if name.lower().endswith((".json", ".json.gz"))]
    return files, found


def _conventional(root: Path, files: Sequence[Path], split: Split) -> list[Path]:
    """COCO's own names, CVAT's and Roboflow's, in any capitals."""
    aliases = "|".join(_ALIASES[split])
    pattern = re.compile(rf"annotations/instances_({aliases})\d*\.json|({aliases})/_annotations\.coco\.json", re.I)
    return [path for path in files if pattern.fullmatch(path.relative_to(root).as_posix())]


def _named_after(root: Path, files: Sequence[Path], split: Split) -> list[Path]:
    """Annotation files that bear the split's name, or lie in a folder that does; those with the fewest other words."""
    other = {alias for name, aliases in _ALIASES.items() if name != split for alias in aliases}
    fitting: dict[Path, int] = {}
    for path in files:
        words = _words(root, path)
        own = _split_words(path.stem)
        if words & {*_ALIASES[split]} and not (own or words) & {*other, *_OTHER} and _looks_coco(path):
            fitting[path] = len(own - {*_PLAIN, *_ALIASES[split]})
    return [path for path, rest in fitting.items() if rest == min(fitting.values())]


def _words(root: Path, path: Path) -> set[str]:
    return _split_words(path.relative_to(root).as_posix())


def _split_words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower())) - {"json", "gz"}


def _looks_coco(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            begin = file.read(_GLANCE)
    except OSError:
        return False
    if begin[:2] == b"\x1f\x8b":
        return True
    plain = begin.replace(b"\0", b"")  # UTF-16
    return any(f'"{section}"'.encode() in plain for section in ("images", "annotations", "categories"))


def _contents(root: Path, files: Sequence[Path]) -> str:
    """Say what the folder holds: its JSON files by name, everything else by kind."""
    if files:
        names = ", ".join(path.relative_to(root).as_posix() for path in files[:10])
        more = f" and {len(files) - 10} more" if len(files) > 10 else ""
        return f"JSON files that are there: {names}{more}. "
    kinds = kinds_of(path.name for path in sorted(root.rglob("*"))[:10_000] if path.is_file())
    return f"There is no JSON file, but {kinds}. " if kinds else "The folder is empty. "


def kinds_of(names: Iterable[str]) -> str:
    """Count files by the ending of their names: "3 HEIC, 1 TXT"."""
    counts = Counter(Path(name).suffix.lstrip(".").upper() or "without an ending" for name in names)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common(8))


def _image_folders(root: Path, annotations: Path, split: Split) -> list[Path]:
    """Folders that may hold the images, the likeliest first, in any capitals; the root is always one."""
    beside, stem = annotations.parent, annotations.name.split(".")[0]
    if annotations.name.lower() == "_annotations.coco.json":
        return [beside]
    named = re.fullmatch(r"instances_(\w+)", stem, re.I)
    names = list(dict.fromkeys([named[1] if named else stem, *_ALIASES[split]]))
    inside = [*names, *(f"images/{name}" for name in names)]
    inside += [f"{name}/{folder}" for name in names for folder in ("images", "data")]
    inside += ["images", "data", "JPEGImages", "imgs"]
    above = beside.parent if beside.name.lower() == "annotations" else beside
    wanted = [base / name for base in dict.fromkeys((above, root)) for name in inside]
    wanted += [beside] if beside not in (root, root / "annotations") else []
    there = {os.fspath(folder).casefold(): folder for folder in _walk(root)[1]}
    found = [folder if folder.is_dir() else there.get(os.fspath(folder).casefold()) for folder in wanted]
    return [*dict.fromkeys(folder for folder in found if folder is not None), root]


def choose_folder(paths: SplitPaths, names: Sequence[str]) -> Path:
    """Return the first folder that holds one of the file names, as written or in another spelling; else the first."""
    probes = names[:: max(1, len(names) // 50)]
    for folder in paths.images:
        if any((folder / variant).is_file() for name in probes for variant in unicode_variants(name)):
            return folder
    for folder in paths.images:
        listing = FolderListing(folder)
        if any(len(listing.matches(name)) == 1 for name in probes):
            return folder
    return paths.images[0]
