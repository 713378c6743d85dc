"""The built-in data set: a COCO-format folder drawn on first use, read like any other folder."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ifpn.data.figures import CLASSES
from ifpn.data.scenes import draw_scene

log = logging.getLogger(__name__)

# Raised whenever a change of the drawing code changes pixels or boxes: folders with another number are drawn
# again.
GENERATOR_VERSION = 3
STAMP = "shapes.json"
VAL_OFFSET = 1_000_000  # validation scenes are numbered from here, so that growing one split never touches the other
JPEG_QUALITY = 92


def ensure_shapes(root: str | Path, *, num_train: int, num_val: int, seed: int) -> Path:
    """Make sure that `root` holds the data set with these numbers of images, drawing it if need be.

    The folder is written beside its place and renamed at the end, so that an interrupted run leaves nothing
    that looks complete; of several processes asking at once, one draws and the others wait. A folder drawn
    with other numbers or by another version is replaced; a folder that is not ours is never touched.

    Returns the folder. Raises ValueError for counts below 1 and for a `root` that holds something else.
    """
    for name, value in (("num_train", num_train), ("num_val", num_val)):
        if not 1 <= value < VAL_OFFSET:
            raise ValueError(f"{name}={value}: allowed are 1 to {VAL_OFFSET - 1} images")
    if seed < 0:
        raise ValueError(f"data_seed={seed}: allowed are whole numbers from 0 on")
    root = Path(root).expanduser().absolute()
    stamp = {"generator": GENERATOR_VERSION, "num_train": num_train, "num_val": num_val, "seed": seed}
    if _stamp_of(root) == stamp:
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with _lock(root.parent / f".{root.name}.lock"):
        if _stamp_of(root) != stamp:  # another process may have drawn it while this one waited
            _replace(root, stamp)
    return root


def _stamp_of(root: Path) -> dict[str, int] | None:
    """The stamp of a complete folder, or None if there is none."""
    try:
        stamp = json.loads((root / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system releases it even if the process is killed."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _replace(root: Path, stamp: dict[str, int]) -> None:
    if root.exists() and _stamp_of(root) is None and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(
            f"{root} exists and is not the built-in data set (it has no {STAMP}); nothing in it was changed. "
            "Give another place with data.root=FOLDER, "
            "or train on this folder with data=coco data.root=FOLDER"
        )
    begun = time.perf_counter()
    fresh = Path(tempfile.mkdtemp(prefix=f".{root.name}.new.", dir=root.parent))
    try:
        write_shapes(fresh, num_train=stamp["num_train"], num_val=stamp["num_val"], seed=stamp["seed"])
        (fresh / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
        fresh.chmod(0o755)  # mkdtemp's folders are private
        if root.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{root.name}.old.", dir=root.parent))
            os.rename(root, old / "data")
            os.rename(fresh, root)
            shutil.rmtree(old)
        else:
            os.rename(fresh, root)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    seconds = time.perf_counter() - begun
    log.info(
        "drew %d images of built-in data in %s in %.0f s",
        stamp["num_train"] + stamp["num_val"],
        root,
        seconds,
    )


def write_shapes(folder: Path, *, num_train: int, num_val: int, seed: int) -> None:
    """Draw both splits into an existing folder: images/*.jpg and annotations/instances_{train,val}.json."""
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    for split, first, count in (("train", 0, num_train), ("val", VAL_OFFSET, num_val)):
        content = _draw_split(folder / "images", split, first, count, seed)
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content), encoding="utf-8")


def _draw_split(images: Path, split: str, first: int, count: int, seed: int) -> dict[str, object]:
    image_entries: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(first, first + count):
        picture, placed = draw_scene(seed, number)
        name = f"{split}_{number - first:06d}.jpg"
        picture.save(images / name, quality=JPEG_QUALITY, subsampling=0)
        image_entries.append({"id": number + 1, "file_name": name, "width": picture.width, "height": picture.height})
        for item in placed:
            x, y, w, h = item.box
            annotations.append(
                {
                    "id": (first + len(annotations)) + 1,
                    "image_id": number + 1,
                    "category_id": item.category + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": f"shapes {split}", "version": GENERATOR_VERSION, "seed": seed},
        "licenses": [],
        "images": image_entries,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": kind.name} for i, kind in enumerate(CLASSES)],
    }


@dataclass(frozen=True)
class Shapes:
    """The built-in data set with these numbers of images: calling it makes sure that a folder holds it."""

    num_train: int = 224
    num_val: int = 80
    seed: int = 0

    def __call__(self, root: Path) -> Path:
        """See `ensure_shapes`."""
        return ensure_shapes(root, num_train=self.num_train, num_val=self.num_val, seed=self.seed)
