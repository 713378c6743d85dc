"""What `source=` may be: an image, a folder, a pattern, a list of files, an address; and how it is shown."""

from __future__ import annotations

import glob
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from omegaconf import DictConfig

from ifpn.data import BadImage, DataError, ImageFolder
from ifpn.predictor import Predictor
from ifpn.reading import read_bytes

MAX_DOWNLOAD = 64 * 2**20  # bytes of one image
_TIMEOUT = 20.0  # seconds
_LISTS = (".txt", ".lst")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Sources:
    """Image files, and the folder that their names are told relative to.

    Attributes:
        root: names of pictures are those of the files below it.
        files: in the order in which they are predicted.
        note: one line about what was left out; empty if nothing was.
    """

    root: Path
    files: list[Path]
    note: str = ""

    def name(self, file: Path) -> Path:
        """The file's name below `root`; its bare name where it lies elsewhere."""
        return file.relative_to(self.root) if file.is_relative_to(self.root) else Path(file.name)


def find_sources(source: str, leave_out: Path, downloads: Path) -> Sources:
    """The images that `source` stands for.

    Args:
        source: a file, a folder, a pattern (`photos/*.jpg`, `photos/**/*.png`), a text file with a path per line
            (relative to the text file), or an http(s) address of one image.
        leave_out: a folder whose files are not taken, the one that results go to.
        downloads: where an image from an address is kept.

    Raises:
        DataError: nothing is there, or it is of a kind that this command does not take.
        BadImage: an address that cannot be read.
    """
    if not source.strip():
        raise DataError("source= has no value. Give an image, a folder, a pattern or an address.")
    if urlsplit(source).scheme in ("http", "https"):
        return _downloaded(source, downloads)
    path = Path(source).expanduser()
    if path.suffix.lower() in VIDEOS and path.is_file():
        raise DataError(f"source={source}: is a video. Predict its frames in order with stream=true.")
    if path.suffix.lower() in _LISTS and path.is_file():
        return _listed(path)
    if not path.exists() and not path.is_symlink() and glob.has_magic(source):
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        own = leave_out.resolve()
        found = sorted(Path(name) for name in names if Path(name).is_file())
        found = [file for file in found if not file.resolve().is_relative_to(own)]
        if not found:
            raise DataError(f"source={source}: no file fits the pattern.")
        return _together(found)
    folder = ImageFolder(source, leave_out=leave_out)
    return Sources(folder.root, list(folder.files), getattr(folder, "left_out_note", ""))


def _listed(path: Path) -> Sources:
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"source={path}: must be a text file with one path per line ({error}).") from error
    found = [path.parent / Path(line.strip()).expanduser() for line in lines if line.strip() and line[0] != "#"]
    if not found:
        raise DataError(f"source={path}: names no file. Write one path per line.")
    return _together(found)


def _together(found: list[Path]) -> Sources:
    """Files from anywhere, each once, named below the folder that they have in common."""
    if any(".." in file.parts for file in found):  # else a name could lead out of the folder of the results
        found = [file.parent.resolve() / file.name for file in found]
    return Sources(_common_folder(found), list(dict.fromkeys(found)))


def _common_folder(files: list[Path]) -> Path:
    parents = {file.parent for file in files}
    first = next(iter(parents))
    return next((p for p in (first, *first.parents) if all(parent.is_relative_to(p) for parent in parents)), first)


def _downloaded(address: str, downloads: Path) -> Sources:
    """One image, at most `MAX_DOWNLOAD` bytes, kept for the run."""
    name = Path(unquote(urlsplit(address).path)).name or "image"
    target = downloads / name
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "ifpn"})  # http(s) only, see above
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            content = answer.read(MAX_DOWNLOAD + 1)
    except (OSError, ValueError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise BadImage(f"source={address}: cannot be fetched ({reason}). Download it, and give the file.") from error
    if len(content) > MAX_DOWNLOAD:
        raise BadImage(f"source={address}: is larger than {MAX_DOWNLOAD >> 20} MiB. Download it, and give the file.")
    downloads.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return Sources(downloads, [target])


def download_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for images from addresses, gone at the end of the command."""
    return tempfile.TemporaryDirectory(prefix="ifpn_")


def drawn_from(cfg: DictConfig, predictor: Predictor) -> float:
    """The score from which on boxes are drawn: as set, else that of the highest F1 in validation, else 0.3."""
    return float((predictor.score_threshold or 0.3) if cfg.score_threshold is None else cfg.score_threshold)


def printable(text: object) -> str:
    """Text for a terminal: file names may hold bytes that are no text."""
    return str(text).encode("utf-8", "backslashreplace").decode()
