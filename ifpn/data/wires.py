"""Wires with decoys: the class of a lamp is the colour of the bulb at the far end of its wire. Only reach helps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
from PIL import Image, ImageDraw

from ifpn.bounds import Ge, Le, check
from ifpn.data.drawn import Drawable, Drawn, ensure_drawn, write_split
from ifpn.errors import UserError

GENERATOR_VERSION = 2  # raised whenever a change of the drawing code changes pixels or boxes
CLASSES = ("lamp_red", "lamp_blue")
COLOURS = ((222, 48, 44), (48, 92, 222))
LAMP, BULB, STUB = 12, 8, 12  # sides of a lamp's box and a bulb, length of a decoy's loose wire, in pixels
GREY, WHITE = (150, 150, 150), (250, 246, 214)
CLEAR = 4.0  # pixels between the outlines of things that do not belong together
NEAREST = LAMP / 2 + BULB / 2 + CLEAR  # of a lamp and a bulb
NEAR = 2 * NEAREST  # room for decoys where the own bulb is nearer than that
LEAN = 2  # training distances are even draws from 0 to 1 to this power: most are short, and the long ones build on them
SCALE = 4  # pictures are drawn at so many times their size
TRIES = 300  # places to try for one thing, and scenes to try for one picture

Point = tuple[float, float]


@dataclass(frozen=True)
class Lamp:
    """A lamp at `at`, of class `colour`; its wire runs over `bend` to a bulb in a straight distance of `distance`."""

    colour: int
    at: Point
    bend: Point
    bulb: Point
    distance: float


@dataclass(frozen=True)
class Decoy:
    """A bulb whose wire ends loose after a few pixels, at `end`."""

    colour: int
    at: Point
    end: Point


def draw_wires(
    seed: int, number: int, *, size: int, shortest: float, longest: float, lean: float = 1
) -> tuple[Image.Image, list[Lamp]]:
    """Draw scene `number`: two lamps of different classes, each with a red and a blue decoy nearer than its bulb.

    Neither counting colours nor looking at the nearest bulbs tells a class: it takes the wire. Both wires of a picture
    have the same length, or the shorter one would tell the class of both, and no lamp is nearer to the other's bulb
    than to its own, or a detector that does not see its own could conclude by exclusion.

    Raises:
        UserError: the distances do not fit into the picture.
    """
    rng = Random(f"wires:{seed}:{number}")
    distance = shortest + (longest - shortest) * rng.random() ** lean
    for _ in range(TRIES):
        scene = _scene(rng, size, distance)
        if scene is not None:
            return _paint(*scene, size, rng), scene[0]
    raise UserError(
        f"data.generate.size={size}: two wires of {distance:.0f} px and their decoys find no room in it. "
        "Enlarge it, or shorten data.generate.longest and data.generate.val_longest."
    )


def _scene(rng: Random, size: int, distance: float) -> tuple[list[Lamp], list[Decoy]] | None:
    lamps: list[Lamp] = []
    decoys: list[Decoy] = []
    taken: list[tuple[Point, float]] = []  # points of what lies there, with radii

    def free(points: list[Point], radius: float) -> bool:
        inside = all(radius + 1 <= v <= size - radius - 1 for point in points for v in point)
        return inside and all(math.dist(p, q) >= radius + r + CLEAR for p in points for q, r in taken)

    first = int(rng.random() * 2)
    for colour in (first, 1 - first):
        for _ in range(TRIES):
            at = (rng.random() * size, rng.random() * size)
            angle, sag = rng.random() * math.tau, 0.05 * distance * (2 * rng.random() - 1)
            bulb, bend = _step(at, angle, distance), _step(_step(at, angle, distance / 2), angle + math.pi / 2, sag)
            wire = _curve(at, bend, bulb)
            apart = all(min(math.dist(at, o.bulb), math.dist(bulb, o.at)) >= distance for o in lamps)
            if apart and free([at], LAMP / 2) and free([bulb], BULB / 2) and free(wire, 1):
                break
        else:
            return None
        lamps.append(Lamp(colour, at, bend, bulb, distance))
        taken += [(at, LAMP / 2), (bulb, BULB / 2), *((point, 1.0) for point in wire)]
    for lamp in lamps:
        shuffled = int(rng.random() * 2)
        for colour in (shuffled, 1 - shuffled):
            for _ in range(TRIES):
                radius = NEAREST + (max(lamp.distance, NEAR) - NEAREST) * rng.random()
                at, turn = _step(lamp.at, rng.random() * math.tau, radius), rng.random() * math.tau
                end = _step(at, turn, BULB / 2 + STUB)
                stub = _curve(at, _step(at, turn, STUB / 2), end)
                if free([at], BULB / 2) and free(stub, 1):
                    break
            else:
                return None
            decoys.append(Decoy(colour, at, end))
            taken += [(at, BULB / 2), *((point, 1.0) for point in stub)]
    return lamps, decoys


def _step(start: Point, angle: float, length: float) -> Point:
    return start[0] + length * math.cos(angle), start[1] + length * math.sin(angle)


def _curve(a: Point, middle: Point, b: Point) -> list[Point]:
    """Points of the parabola through a, middle and b, at most about 2 px apart."""
    count = max(2, math.ceil(math.dist(a, b) / 2))
    points = []
    for i in range(count + 1):
        t = i / count
        p, q, r = (1 - t) * (1 - 2 * t), 4 * t * (1 - t), t * (2 * t - 1)
        points.append((p * a[0] + q * middle[0] + r * b[0], p * a[1] + q * middle[1] + r * b[1]))
    return points


def _paint(lamps: list[Lamp], decoys: list[Decoy], size: int, rng: Random) -> Image.Image:
    dark = 30 + int(rng.random() * 40)
    picture = Image.new("RGB", (size * SCALE, size * SCALE), (dark, dark, dark))
    pen = ImageDraw.Draw(picture)

    def disc(at: Point, side: float, colour: tuple[int, int, int]) -> None:
        box = [SCALE * (v + sign * side / 2) for sign in (-1, 1) for v in at]
        pen.ellipse(box, fill=colour)

    wires = [_curve(lamp.at, lamp.bend, lamp.bulb) for lamp in lamps] + [[d.at, d.end] for d in decoys]
    for wire in wires:
        pen.line([(SCALE * x, SCALE * y) for x, y in wire], fill=GREY, width=2 * SCALE, joint="curve")
    for lamp in lamps:
        disc(lamp.at, LAMP, WHITE)
    for bulb, colour in [(lamp.bulb, lamp.colour) for lamp in lamps] + [(decoy.at, decoy.colour) for decoy in decoys]:
        disc(bulb, BULB, COLOURS[colour])
    grain = np.random.default_rng(int(rng.random() * 2**32)).normal(0, 4, (size, size, 1))
    pixels = np.asarray(picture.reduce(SCALE), dtype=np.float64) + grain
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


@check
@dataclass(frozen=True)
class Wires:
    """The data set with these numbers of square pictures: calling it makes sure that a folder holds it.

    Lamps alone are annotated, with boxes of one size; each annotation has `distance`, from lamp to bulb in pixels.

    Args:
        num_train, num_val, seed: as `Shapes`.
        size: side of the pictures in pixels.
        shortest, longest: distances in training pictures, one for each picture, a square of an even draw: half of them
            lie in the first quarter. Drawn evenly, the classes are still guessed after 900 steps of 16. Below 28 px
            the own bulb may be the nearest.
        val_longest: of validation pictures, drawn evenly, with distances that training never showed.

    Raises:
        UserError: distances that do not increase, or too short for a wire.
    """

    num_train: Drawable = 6000
    num_val: Drawable = 500
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    size: Annotated[int, Ge(32), Le(2048)] = 160
    shortest: Annotated[int, Ge(1), Le(2048)] = 14
    longest: Annotated[int, Ge(1), Le(2048)] = 64
    val_longest: Annotated[int, Ge(1), Le(2048)] = 128

    def __post_init__(self) -> None:
        if not NEAREST <= self.shortest <= self.longest <= self.val_longest:
            raise UserError(
                f"shortest={self.shortest}, longest={self.longest}, val_longest={self.val_longest}: must "
                f"increase, from {NEAREST:g} px on, where a wire shows between lamp and bulb. Change one of them."
            )

    def __call__(self, root: Path) -> Path:
        """See `ensure_drawn`."""
        return ensure_drawn(root, "wires", {"generator": GENERATOR_VERSION, **asdict(self)}, self._write)

    def _write(self, folder: Path) -> None:
        train, val = ("train", self.num_train, self.longest, LEAN), ("val", self.num_val, self.val_longest, 1)
        for split, count, longest, lean in (train, val):

            def draw(number: int, longest: int = longest, lean: int = lean) -> Drawn:
                reach = {"shortest": self.shortest, "longest": longest, "lean": lean}
                picture, lamps = draw_wires(self.seed, number, size=self.size, **reach)
                boxes = [(lamp.at[0] - LAMP / 2, lamp.at[1] - LAMP / 2, LAMP, LAMP) for lamp in lamps]
                more = [{"distance": round(lamp.distance, 2)} for lamp in lamps]
                return picture, list(zip([lamp.colour for lamp in lamps], boxes, more, strict=True))

            info = {"description": f"wires {split}", "version": GENERATOR_VERSION, "seed": self.seed}
            write_split(folder, split, count, draw, names=CLASSES, info=info)
