"""The built-in data set: eight kinds of figures on textured ground, drawn by `ifpn.data.scenes`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ifpn.bounds import Ge, Le, check
from ifpn.data.drawn import Drawable, Drawn, ensure_drawn, write_split
from ifpn.data.figures import CLASSES
from ifpn.data.scenes import draw_scene

# Raised whenever a change of the drawing code changes pixels or boxes: folders with another number are drawn
# again.
GENERATOR_VERSION = 3


@check
def ensure_shapes(
    root: str | Path, *, num_train: Drawable, num_val: Drawable, seed: Annotated[int, Ge(0), Le(2**31 - 1)]
) -> Path:
    """See `ensure_drawn`."""
    stamp = {"generator": GENERATOR_VERSION, "num_train": num_train, "num_val": num_val, "seed": seed}
    return ensure_drawn(
        root,
        "shapes",
        stamp,
        lambda folder: write_shapes(folder, num_train=num_train, num_val=num_val, seed=seed),
    )


def write_shapes(folder: Path, *, num_train: int, num_val: int, seed: int) -> None:
    """Draw both splits into an existing folder."""
    for split, count in (("train", num_train), ("val", num_val)):
        _draw_split(folder, split, count, seed)


def _draw_split(folder: Path, split: str, count: int, seed: int) -> None:
    def draw(number: int) -> Drawn:
        picture, placed = draw_scene(seed, number)
        return picture, [(item.category, item.box, {}) for item in placed]

    info = {"description": f"shapes {split}", "version": GENERATOR_VERSION, "seed": seed}
    write_split(folder, split, count, draw, names=[kind.name for kind in CLASSES], info=info)


@check
@dataclass(frozen=True)
class Shapes:
    """The built-in data set with these numbers of images: calling it makes sure that a folder holds it."""

    num_train: Drawable = 224
    num_val: Drawable = 80
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0

    def __call__(self, root: Path) -> Path:
        """See `ensure_shapes`."""
        return ensure_shapes(root, num_train=self.num_train, num_val=self.num_val, seed=self.seed)
