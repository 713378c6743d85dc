"""Checkpoint files: written whole or not at all, verified when read, and never able to run code."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from ifpn.errors import ConfigError, UserError
from ifpn.runs.content import MOST_REPEATED, ContentError, checked_metadata, content_digest
from ifpn.runs.files import replacing

log = logging.getLogger(__name__)
FORMAT = 1
_SAVED_BY_LIGHTNING = ("epoch", "global_step")


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint door: write beside, flush to disk, rename; read with `weights_only`.

    A run killed at any moment leaves either the old file or the new one, never half of one.

    Raises:
        WriteError: the disk is full, or may not be written; the file that was there before is untouched.
        UserError: the checkpoint holds what could not be read again.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write whole or not at all."""
        try:
            described = with_digest(checkpoint)
        except ContentError as error:
            raise UserError(
                f"a checkpoint of this run could not be read again: {error}, probably the state of a callback. Only "
                "tensors and plain values can be stored: remove the callback, or mend its state_dict."
            ) from error
        with replacing(Path(path)) as file:
            torch.save(described, file)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read and verify; nothing in the file is run."""
        return read_checkpoint(path)


def with_digest(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Add the digest of its content to the description of a checkpoint or an export (entry `ifpn`)."""
    plain = {name: value for name, value in checkpoint["ifpn"].items() if name != "digest"}
    digest = content_digest({**checkpoint, "ifpn": plain})
    return {**checkpoint, "ifpn": {**plain, "digest": digest}}


def check_digest(checkpoint: Mapping[str, Any], size: int) -> None:
    """Compare the content with its digest. ifpn 0.1 wrote none: then only the bounds are checked.

    Raises:
        ContentError: it differs, or holds what no training writes. size: bytes of the file.
    """
    plain = {name: value for name, value in checkpoint["ifpn"].items() if name != "digest"}
    found = content_digest({**checkpoint, "ifpn": plain}, MOST_REPEATED * size)
    if checkpoint["ifpn"].get("digest", found) != found:
        raise ContentError("its content does not match its digest")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ifpn onto the CPU, its configuration in today's keys.

    Raises:
        ConfigError: no such file, damaged or truncated, holding anything but tensors and plain values, or not ours.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"ckpt={path}: no such file. Give a checkpoint that a run wrote, e.g. runs/…/best.ckpt.")
    try:
        checkpoint: dict[str, Any] = _load(file)
        described = isinstance(checkpoint, dict) and isinstance(checkpoint.get("ifpn"), dict)
        if not described or not is_state_dict(checkpoint.get("state_dict")):
            raise ConfigError(f"ckpt={path} was not written by ifpn: it has no 'ifpn' entry describing the model.")
        found = checkpoint["ifpn"].get("format")
        if found != FORMAT:
            raise ConfigError(f"ckpt={path} has format {found!r:.40}; this version of ifpn reads format {FORMAT}.")
        check_digest(checkpoint, file.stat().st_size)
    except ConfigError:
        raise
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"ckpt={path} holds more than tensors and plain values and was not loaded, because doing so could run code "
            "that came with it. Load checkpoints written by ifpn only."
        ) from error
    except Exception as error:  # a damaged file fails in many ways, which all mean the same
        raise ConfigError(f"ckpt={path} is damaged ({first_line(error)}): use another checkpoint.") from error
    try:
        checkpoint["ifpn"] = checked_metadata(checkpoint["ifpn"])
        for name in _SAVED_BY_LIGHTNING:
            if not isinstance(checkpoint.get(name, 0), int):
                raise ConfigError(f"its entry {name!r} is not a whole number.")
    except ConfigError as error:
        raise ConfigError(f"ckpt={path} was not written by ifpn: {error}") from error
    return checkpoint


def is_state_dict(value: Any) -> bool:
    """Whether `value` maps names to tensors."""
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())


def _load(file: Path, *, mapped: bool = False) -> Any:
    _check_archive(file, checksums=not mapped)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)


def _check_archive(file: Path, *, checksums: bool) -> None:
    """Check the archive's own bookkeeping: a file that asks for more memory than it has bytes is refused here."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            stored = all(e.compress_type == zipfile.ZIP_STORED and e.compress_size == e.file_size for e in entries)
            if not stored or sum(e.file_size for e in entries) > file.stat().st_size:
                raise ContentError("its entries do not add up to the file")
            broken = archive.testzip() if checksums else None
    except zipfile.BadZipFile as error:
        raise ConfigError(
            f"ckpt={file} is not a complete checkpoint ({error}): the file is truncated or of another kind."
        ) from error
    if broken is not None:
        raise ConfigError(f"ckpt={file} is damaged: entry {broken!r} does not match its checksum.")


def latest_readable(folder: str | Path) -> Path:
    """The checkpoint in `folder` with the most steps among those that can be read whole; others are passed over.

    Raises:
        ConfigError: there is none.
    """
    files = list(Path(folder).glob("*.ckpt"))
    # Of equal steps the file that was written last: it knows the most. Clocks decide nothing else.
    for file in sorted(files, key=lambda f: (_steps(f), _written(f), f.name), reverse=True):
        try:
            read_checkpoint(file)
        except ConfigError as error:
            log.warning("%s Passed over.", error)
            continue
        return file
    seen = ", ".join(sorted(f.name for f in files)) or "none"
    raise ConfigError(
        f"ckpt=last: no readable checkpoint in {folder} (found: {seen}). Give run_dir=… of a run that was started."
    )


def _steps(file: Path) -> int:
    """The steps done, read without the tensors; -1 where the file cannot be read."""
    try:
        return int(_load(file, mapped=True)["global_step"]) if file.is_file() else -1
    except Exception:  # the reading proper says what is wrong
        return -1


def _written(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:  # a link to nowhere
        return 0


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters; its type if there is none."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
