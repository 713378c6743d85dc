"""Decoded images in one mapped file that all processes, and all runs on the same images, share."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifpn.data.coco.defects import DataError

GIB = 2**30
KEPT_DAYS = 7  # a file that no run has opened for so long is deleted by the next run


class ImageCache:
    """The pixels of a list of image files, filled as they are first decoded; the same bytes as decoding gives.

    The file lies in the system's folder for temporary files, is named by the paths, sizes and times of the images, and
    is shared through the system's page cache. Two processes that fill the same image write the same bytes.

    Args:
        paths: of the images; None for one that is not to be kept.
        sizes: (N, 2) width and height of each, in pixels; an image of unknown size (0) is not kept.
        limit: GiB that all of them may take.

    Raises:
        DataError: they take more, or there is no room for them.
    """

    def __init__(self, paths: Sequence[Path | None], sizes: NDArray[np.integer[Any]], limit: float) -> None:
        known = np.array([path is not None for path in paths], dtype=bool)
        self._shapes = np.where(known[:, None], sizes, 0).astype(np.int64)
        lengths = 3 * self._shapes.prod(axis=1)
        self._ends = np.cumsum(lengths) + len(paths)  # behind one byte per image that says whether it is there
        self._starts = self._ends - lengths
        total = int(self._ends[-1]) if len(paths) else 0
        if total > limit * GIB:
            raise DataError(
                f"data.cache=memory: {len(paths)} images take {total / GIB:.1f} GiB, and data.cache_gib={limit:g} "
                "allows less. Raise it, or leave data.cache=null."
            )
        self.path = _folder() / _key(paths, self._shapes)
        self._map: NDArray[np.uint8] | None = None
        self._create(total)

    def _create(self, total: int) -> None:
        _forget_old(self.path.parent)
        if self.path.is_file() and self.path.stat().st_size == total:
            os.utime(self.path)
            return
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            with new.open("wb") as file:
                file.truncate(total)  # sparse: takes room as it is filled
            free = os.statvfs(new)
            if free.f_bavail * free.f_frsize < total:
                raise DataError(
                    f"data.cache=memory: {total / GIB:.1f} GiB do not fit in {new.parent}. Set TMPDIR to a folder with "
                    "room, or leave data.cache=null."
                )
            new.replace(self.path)
        finally:
            new.unlink(missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        """Without the map, which a loader's worker opens for itself."""
        return {**self.__dict__, "_map": None}

    def _open(self) -> NDArray[np.uint8]:
        if self._map is None:
            self._map = np.memmap(self.path, dtype=np.uint8, mode="r+")
        return self._map

    def get(self, index: int) -> Tensor | None:
        """Pixels (3, H, W) uint8 of an image, a copy; None if it is not there yet."""
        if self._starts[index] == self._ends[index] or not self._open()[index]:
            return None
        width, height = self._shapes[index]
        pixels = self._open()[self._starts[index] : self._ends[index]]
        return torch.from_numpy(np.array(pixels).reshape(3, height, width))

    def put(self, index: int, image: Tensor) -> None:
        """Keep an image; one that has another size than was said is not kept."""
        width, height = self._shapes[index]
        if tuple(image.shape) == (3, height, width) and height > 0:
            self._open()[self._starts[index] : self._ends[index]] = image.numpy().reshape(-1)
            self._open()[index] = 1


def _folder() -> Path:
    """A folder of this user's own: what lies in it is taken for pixels."""
    folder = Path(tempfile.gettempdir()) / f"ifpn-images-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise DataError(f"data.cache=memory: {folder} belongs to another user. Set TMPDIR to a folder of your own.")
    return folder


def _key(paths: Sequence[Path | None], shapes: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(shapes.tobytes())
    for path in paths:
        if path is not None:
            stat = path.stat()
            digest.update(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _forget_old(folder: Path) -> None:
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for path in folder.iterdir():
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
