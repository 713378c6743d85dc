"""Images with their boxes, one at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ifpn.bounds import Ge, Le, check
from ifpn.data.augment import Augment
from ifpn.data.cache import ImageCache
from ifpn.data.coco.annotations import CocoAnnotations
from ifpn.data.coco.defects import DataError
from ifpn.data.coco.files import FolderListing, match_names, resolve_file
from ifpn.data.coco.layout import kinds_of
from ifpn.data.decode import MAX_PIXELS, SUFFIXES, BadImage, MissingImage, decode_image

Target = dict[str, Tensor | int]
Item = tuple[Tensor, Target]


@check
@dataclass(frozen=True)
class ImageReading:
    """How image files are read.

    on_bad_image: "refuse" stops at a missing, broken or wrongly sized image; "skip" goes on without it
    max_bad:      with "skip", how many different images may be bad before it is refused after all
    max_pixels:   largest width * height that is decoded
    """

    on_bad_image: Literal["refuse", "skip"] = "refuse"
    max_bad: Annotated[int, Ge(0), Le(10**9)] = 100
    max_pixels: Annotated[int, Ge(1), Le(Image.MAX_IMAGE_PIXELS or MAX_PIXELS)] = MAX_PIXELS


class CocoDataset(Dataset[Item]):
    """The images of an annotation file: item = (image (3, H, W) uint8 RGB, target).

    target: boxes (M, 4) float32 xyxy in pixels of this image, labels (M,) int64 from 0, image_id (int,
            official).
    A key is an index, or (k, index) as ResumableBatchSampler yields it: augmentation depends on (seed, k,
    index) alone.

    With `cache_gib` decoded images are kept, and shared by all runs on them (`ImageCache`), up to so many GiB.

    With `ImageReading("skip")` an unreadable training image is replaced by the next readable one; in validation
    (`augment=None`) it is replaced by a grey image of its size under its own id, so that its boxes count as
    missed and no image counts twice.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        folder: Path,
        *,
        boundary: Path | None = None,
        images: NDArray[np.int64] | None = None,
        augment: Augment | None = None,
        seed: int = 0,
        reading: ImageReading | None = None,
        cache_gib: float | None = None,
    ) -> None:
        self.annotations, self.folder, self.boundary = annotations, folder, boundary
        self.images = np.arange(len(annotations)) if images is None else images
        self.augment, self.seed = augment, seed
        self.reading = ImageReading() if reading is None else reading
        # by position in the annotations: names that are spelled otherwise on disk, and images without a file
        self.renamed, self.missing = match_names(FolderListing(folder), annotations.file_names())
        self._cache = None if cache_gib is None else self._open_cache(cache_gib)
        # one byte per image, shared, so that the count holds over all workers
        self._bad = torch.zeros(len(self.images), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Number of images served."""
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """Item `index`, or (k, index); raises BadImage for an image that the reading rules refuse."""
        k, index = key if isinstance(key, tuple) else (0, key)
        image, served = self._read(index)
        i = int(self.images[served])
        xyxy, label = self.annotations.boxes(i)
        boxes, labels = torch.from_numpy(xyxy.copy()), torch.from_numpy(label.astype(np.int64))
        if self.augment is not None:
            image, boxes, labels = self.augment(image, boxes, labels, (self.seed, k, index))
        return image, {"boxes": boxes, "labels": labels, "image_id": int(self.annotations.image_ids[i])}

    def aspect_group(self) -> NDArray[np.int64]:
        """Aspect-ratio group of each image: 0 if wider than high, else 1 (as detection recipes do)."""
        size = self.annotations.sizes[self.images]
        return np.where(size[:, 0] > size[:, 1], 0, 1)

    def bad_images(self) -> list[int]:
        """Ids of the images found unreadable so far, by any worker."""
        found = np.flatnonzero(self._bad.numpy())
        return [int(v) for v in self.annotations.image_ids[self.images[found]]]

    def file_name(self, i: int) -> str:
        """Return the name of the file of image i of the annotations, relative to the folder, as it is on disk."""
        return self.renamed.get(i) or self.annotations.file_name(i)

    def _open_cache(self, limit: float) -> ImageCache:
        paths: list[Path | None] = []
        for i in self.images:
            try:
                paths.append(resolve_file(self.folder, self.file_name(int(i)), self.boundary))
            except (OSError, ValueError):  # said, with the reason, when the image is read
                paths.append(None)
        return ImageCache(paths, self.annotations.sizes[self.images], limit)

    def decode(self, index: int) -> Tensor:
        """Pixels (3, H, W) uint8 of item `index`; raises BadImage naming the image's id."""
        if self._cache is None:
            return self._decode(index)
        image = self._cache.get(index)
        if image is None:
            image = self._decode(index)
            self._cache.put(index, image)
        return image

    def _decode(self, index: int) -> Tensor:
        i = int(self.images[index])
        width, height = (int(v) for v in self.annotations.sizes[i])
        try:
            path = resolve_file(self.folder, self.file_name(i), self.boundary)
            size = (width, height) if width and height else None
            return decode_image(path, max_pixels=self.reading.max_pixels, annotated_size=size)
        except (FileNotFoundError, MissingImage) as error:
            raise MissingImage(f"image {self.annotations.image_ids[i]} of {self.annotations.path}: {error}") from error
        except (OSError, ValueError) as error:  # BadImage and DataError are ValueErrors
            raise BadImage(f"image {self.annotations.image_ids[i]} of {self.annotations.path}: {error}") from error

    def _read(self, index: int) -> tuple[Tensor, int]:
        """Pixels of item `index` and the number of the item they come from."""
        tries = 1 + min(self.reading.max_bad, len(self) - 1)
        for served in ((index + step) % len(self) for step in range(tries)):
            try:
                return self.decode(served), served
            except BadImage as error:
                self._count(served, error)
                if self.augment is None:
                    width, height = (int(v) for v in self.annotations.sizes[self.images[served]])
                    return torch.full((3, height, width), 127, dtype=torch.uint8), served
        raise BadImage(f"{tries} images in a row are unreadable, from image {index} of {self.annotations.path} on")

    def _count(self, index: int, error: BadImage) -> None:
        if self.reading.on_bad_image == "refuse":
            raise BadImage(f"{error}. Leave such images out with data.reading.on_bad_image=skip") from error
        self._bad[index] = 1
        count = int(self._bad.sum())
        if count > self.reading.max_bad:
            raise BadImage(
                f"{error}. With it {count} images are unreadable, "
                f"and data.reading.max_bad={self.reading.max_bad} allows fewer"
            ) from error


class ImageFolder(Dataset[tuple[Path, Tensor]]):
    """One image file, or the image files of a folder and of the folders in it, by name, of any size, upright.

    Item = (path, image (3, H, W) uint8 RGB). Raises DataError if there is no image, BadImage on reading an
    unreadable one.

    Args:
        source: the file or folder.
        leave_out: a folder below `source` whose files are not taken, e.g. the one that results go to.
    """

    def __init__(
        self, source: str | Path, *, leave_out: str | Path | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        path = Path(source).expanduser()
        self.root = path if path.is_dir() else path.parent
        self.files, self.left_out = _images_below(path, leave_out) if path.is_dir() else ([path], [])
        if not path.is_dir() and not path.is_file():
            raise DataError(f"source={source}: does not exist. Give an image or a folder of images")
        if not self.files:
            there = f"only {kinds_of(self.left_out)}" if self.left_out else "no file"
            raise DataError(f"source={source}: has no image files, {there}. Give images ({', '.join(SUFFIXES)})")
        self.max_pixels = max_pixels

    @property
    def left_out_note(self) -> str:
        """One line about files of other kinds; empty if there is none."""
        if not self.left_out:
            return ""
        phone = any(name.lower().endswith((".heic", ".heif")) for name in self.left_out)
        hint = ". `pip install 'ifpn[heic]'` reads HEIC" if phone else ""
        return f"left out, because their names do not end like an image's: {kinds_of(self.left_out)}{hint}"

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Path, Tensor]:
        """Return image number `index`."""
        path = self.files[index]
        return path, decode_image(path, max_pixels=self.max_pixels)


def _images_below(root: Path, leave_out: str | Path | None) -> tuple[list[Path], list[str]]:
    """Image files, and the names of the others; hidden files are neither."""
    unwanted = None if leave_out is None else os.path.realpath(leave_out)
    found: list[Path] = []
    others: list[str] = []
    for folder, inner, names in os.walk(root):  # does not follow links to folders, which may lead round in a circle
        inner[:] = [n for n in inner if not n.startswith(".") and os.path.realpath(Path(folder, n)) != unwanted]
        for name in (name for name in names if not name.startswith(".")):
            file = Path(folder, name)
            # a link that leads nowhere is listed, so that reading it says so; pipes and devices are not. Path.is_file
            # would raise where a folder may not be searched.
            if file.suffix.lower() in SUFFIXES and (os.path.isfile(file) or os.path.islink(file)):  # noqa: PTH113, PTH114
                found.append(file)
            else:
                others.append(name)
    return sorted(found), sorted(others)


def collate(batch: Sequence[Item]) -> tuple[list[Tensor], list[Target]]:
    """Images of different sizes cannot be stacked: a list of images and a list of targets."""
    return [image for image, _ in batch], [target for _, target in batch]
