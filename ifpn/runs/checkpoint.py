"""Checkpoint files: written whole or not at all, verified when read, and never able to run code."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from ifpn.errors import NO_ROOM, ConfigError, UserError

log = logging.getLogger(__name__)
FORMAT = 1


class WriteError(UserError):
    """A file of the run could not be written; what had been written before is whole."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint door: write beside, flush to disk, rename; read with `weights_only`.

    A run killed at any moment leaves either the old file or the new one, never half of one.

    Raises:
        WriteError: the disk is full, or may not be written; the file that was there before is untouched.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        # Same folder, hence same file system: the rename is atomic.
        beside = target.with_name(f".{target.name}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
            _sync_folder(target.parent)
        except (OSError, RuntimeError) as error:
            # torch's writer reports a full disk as a RuntimeError, raised while it handles the OSError.
            cause = error if isinstance(error, OSError) else error.__context__
            _remove(beside)
            if not isinstance(cause, OSError):
                raise
            raise cannot_write(target, cause) from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(path)


def cannot_write(path: Path, error: OSError) -> WriteError:
    """The sentence for a user whose disk is full or whose folder is read-only."""
    remedy = "free some space" if error.errno in NO_ROOM else "make the folder writable, or give another run_dir"
    return WriteError(
        f"{path} could not be written: {error.strerror or error}. Earlier files are intact: {remedy}, "
        f"then continue with ckpt=last run_dir={path.parent}."
    )


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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ifpn onto the CPU.

    Raises:
        ConfigError: no such file, damaged or truncated, holding anything but tensors and plain values, or not ours.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"ckpt={path}: no such file. Give a checkpoint that a run wrote, e.g. runs/…/best.ckpt.")
    _verify(file)
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"ckpt={path} holds more than tensors and plain values and was not loaded, because doing so could run code "
            f"that came with it ({_first_sentence(error)}). Load checkpoints written by ifpn only."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ConfigError(f"ckpt={path} is damaged ({_first_sentence(error)}): use another checkpoint.") from error
    if not (isinstance(checkpoint, dict) and isinstance(checkpoint.get("ifpn"), dict) and "state_dict" in checkpoint):
        raise ConfigError(f"ckpt={path} was not written by ifpn: it has no 'ifpn' entry describing the model.")
    found = checkpoint["ifpn"].get("format")
    if found != FORMAT:
        raise ConfigError(f"ckpt={path} has format {found!r}; this version of ifpn reads format {FORMAT}.")
    return checkpoint


def _verify(file: Path) -> None:
    """Every stored byte against its checksum: torch.load alone reads a file with flipped bits without a word."""
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        raise ConfigError(
            f"ckpt={file} is not a complete checkpoint ({error}): the file is truncated or of another kind."
        ) from error
    if broken is not None:
        raise ConfigError(f"ckpt={file} is damaged: entry {broken!r} does not match its checksum.")


def newest_valid(folder: str | Path) -> Path:
    """The newest checkpoint in `folder` that can be read whole; damaged ones are passed over.

    Raises:
        ConfigError: there is none.
    """
    files = sorted(Path(folder).glob("*.ckpt"), key=lambda f: f.stat().st_mtime, reverse=True)
    for file in files:
        try:
            read_checkpoint(file)
        except ConfigError as error:
            log.warning("%s Passed over.", error)
            continue
        return file
    seen = ", ".join(f.name for f in files) or "none"
    raise ConfigError(
        f"ckpt=last: no readable checkpoint in {folder} (found: {seen}). Give run_dir=… of a run that was started."
    )


def _first_sentence(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
