"""One writer per folder: a lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ifpn.errors import ConfigError
from ifpn.runs.files import write_error
from ifpn.runs.folder import LOCK

log = logging.getLogger(__name__)
_BUSY = (errno.EACCES, errno.EAGAIN)
# (process, folder): POSIX knows no two owners within a process, and drops a lock when any of its descriptors closes.
_held: set[tuple[int, Path]] = set()


class FolderBusyError(ConfigError):
    """Another process writes to the folder."""


@contextmanager
def folder_lock(folder: Path, setting: str) -> Iterator[None]:
    """Hold the folder, which is made if need be, for the time of the block.

    POSIX record locks: they hold on NFS, too, and are not inherited by loader workers, so that a killed run can be
    continued at once while its workers are still dying. A file system without locks is named in one warning.

    Args:
        folder: where the lock file `.lock` is; it stays, empty locks are free.
        setting: the one that names the folder, for the message: run_dir, hydra.sweep.dir.

    Raises:
        FolderBusyError: another process holds it.
        WriteError: the folder cannot be written.
    """
    key = os.getpid(), folder.resolve()
    if key in _held:
        raise _busy(folder, setting, "this process")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        _acquire(handle, folder, setting)
        _held.add(key)
        yield
    finally:
        _held.discard(key)
        os.close(handle)


def _acquire(handle: int, folder: Path, setting: str) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise ConfigError(f"{folder / LOCK} is not a file: remove it.")
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            raise _busy(folder, setting, owner) from error
        log.warning(
            "%s=%s: this file system has no locks (%s). Start no second run there: nothing would stop it.",
            setting,
            folder,
            error.strerror,
        )
        return
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _busy(folder: Path, setting: str, owner: str) -> FolderBusyError:
    return FolderBusyError(
        f"{setting}={folder}: {owner} is writing there. Wait until it has ended, or give another {setting}."
    )
