"""Files of a run: written whole or not at all, and never through a link."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ifpn.errors import NO_ROOM, ConfigError, UserError

log = logging.getLogger(__name__)


class WriteError(UserError):
    """A file of the run could not be written; what had been written before is whole."""


def write_error(path: Path, error: OSError) -> WriteError:
    """Tell a user whose disk is full or whose folder is read-only what to do."""
    remedy = "free some space" if error.errno in NO_ROOM else "make the folder writable, or give another run_dir"
    return WriteError(
        f"{path} could not be written: {error.strerror or error}. Earlier files are intact: {remedy}, "
        f"then continue with ckpt=last run_dir={path.parent}."
    )


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new binary file that takes the place of `path` when the block ends.

    It is written beside the old one, flushed to disk and renamed: a run killed at any moment leaves either the old
    file or the new one. A link at `path` is replaced, not followed.

    Raises:
        WriteError: the disk is full, or may not be written; the file that was there before is untouched.
    """
    # Same folder, hence same file system: the rename is atomic.
    beside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        with beside.open("xb") as file:  # O_EXCL: fails on a link that was planted in between
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        _remove(beside)
        # torch's writer reports a full disk as a RuntimeError, raised while it handles the OSError.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError):
            raise write_error(path, cause) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 (`replacing`)."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write plain values as readable JSON (`replacing`)."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Check files that other libraries write in place, which would follow a link.

    Raises:
        ConfigError: one of `names` in `folder` is a link.
    """
    for name in names:
        path = folder / name
        if path.is_symlink():
            raise ConfigError(f"{path} is a link to {path.readlink()}, and nothing is written through one: remove it.")


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets folders be opened."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        log.warning("%s could not be removed", path)
