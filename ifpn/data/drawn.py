"""Built-in data sets: drawn on first use into a COCO-format folder, once, whoever asks, and never half."""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from PIL import Image

from ifpn.bounds import Ge, Lt
from ifpn.errors import ConfigError, UserError
from ifpn.reading import read_json

log = logging.getLogger(__name__)

VAL_OFFSET = 1_000_000  # validation scenes are numbered from here, so that growing one split never touches the other
JPEG_QUALITY = 92
Drawable = Annotated[int, Ge(1), Lt(VAL_OFFSET)]  # pictures of a split

Stamp = Mapping[str, int]
# A picture and, per object, its category from 0, its box (x, y, width, height) and further entries.
Drawn = tuple[Image.Image, list[tuple[int, Sequence[float], dict[str, Any]]]]


def ensure_drawn(root: str | Path, name: str, stamp: Stamp, write: Callable[[Path], None]) -> Path:
    """Make sure that `root` holds the data set with this stamp, drawing it with `write` if need be.

    The folder is written beside its place and renamed at the end, so that an interrupted run leaves nothing
    that looks complete; of several processes asking at once, one draws and the others wait. A folder that holds
    anything is never replaced: another run may be reading it.

    Args:
        root: the folder.
        name: of the set; the stamp is kept in `<name>.json`.
        stamp: what determines the pictures: numbers of images (`num_train`, `num_val`), seed, version.
        write: fills an empty folder.

    Raises:
        UserError: `root` holds something else, or pictures with another stamp.
    """
    root = Path(root).expanduser().absolute()
    if _is_drawn(root, name, stamp):  # before anything is written
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with _lock(root.parent / f".{root.name}.lock"):
        if not _is_drawn(root, name, stamp):  # another process may have drawn it while this one waited
            _draw(root, name, stamp, write)
    return root


def write_split(
    folder: Path, split: str, count: int, draw: Callable[[int], Drawn], *, names: Sequence[str], info: dict[str, Any]
) -> None:
    """Draw one split, "train" or "val": images/<split>_*.jpg and annotations/instances_<split>.json.

    `draw` takes a scene's number; `names` are the categories'.
    """
    for part in ("images", "annotations"):
        (folder / part).mkdir(exist_ok=True)
    first = VAL_OFFSET if split == "val" else 0
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(first, first + count):
        picture, objects = draw(number)
        name = f"{split}_{number - first:06d}.jpg"
        picture.save(folder / "images" / name, quality=JPEG_QUALITY, subsampling=0)
        images.append({"id": number + 1, "file_name": name, "width": picture.width, "height": picture.height})
        for category, box, more in objects:
            annotations.append(
                {
                    "id": (first + len(annotations)) + 1,
                    "image_id": number + 1,
                    "category_id": category + 1,
                    "bbox": list(box),
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    **more,
                }
            )
    content = {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _is_drawn(root: Path, name: str, stamp: Stamp) -> bool:
    """Whether the folder holds just that; False: it is to be drawn. Anything else that is there is refused."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = read_json(root / f"{name}.json")
    except ConfigError:
        raise UserError(
            f"data.root={root}: must be a new folder, or built-in data ({name}.json). Train on your own folder with "
            f"data=coco data.root={root}. Nothing in it was changed."
        ) from None
    if found != stamp:
        raise UserError(
            f"data.root={root} holds built-in data that were drawn with {_shown(found)}, and {_shown(stamp)} was asked "
            "for. Leave data.root out (each setting has a folder of its own), give another one, or remove that folder."
        )
    return True


def _shown(stamp: Any) -> str:
    return ", ".join(f"{k}={v}" for k, v in stamp.items())[:200] if isinstance(stamp, Mapping) else "something else"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system releases it even if the process is killed."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _draw(root: Path, name: str, stamp: Stamp, write: Callable[[Path], None]) -> None:
    begun = time.perf_counter()
    for left in root.parent.glob(f".{root.name}.new.*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{root.name}.new.", dir=root.parent))
    try:
        write(fresh)
        (fresh / f"{name}.json").write_text(json.dumps(stamp), encoding="utf-8")
        fresh.chmod(0o755)  # mkdtemp's folders are private
        fresh.rename(root)  # onto nothing, or an empty folder; anything else the system refuses
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    count, seconds = stamp["num_train"] + stamp["num_val"], time.perf_counter() - begun
    log.info("drew %d images of built-in data in %s in %.0f s", count, root, seconds)
