"""The figures of the built-in data set, as antialiased masks.

Two classes are simple (disc, triangle). Six form three pairs that differ only in parts far from
each other: a ring whose gap is above or below, a frame whose two opposite corner marks have one colour or two, and
a dumbbell whose ends are equal or not. No class changes under a left-right mirror, so that the flip of
the training recipe keeps every label true (a gap on the left or right would not allow that).

All drawing happens on a canvas `SUPERSAMPLE` times finer than the picture; a box is the extent of that fine
mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageChops, ImageDraw

SUPERSAMPLE = 4


@dataclass(frozen=True)
class Figure:
    """One drawn figure on its own canvas, `SUPERSAMPLE` times finer than the picture.

    body:  mask ("L", 0 or 255) of the part in the figure's main colour
    marks: masks of parts in colours of their own; `mark_colours` says which colour (0 or 1) each has
    keys:  masks of the parts that tell the class: nothing else may lie on any of them
    """

    body: Image.Image
    keys: tuple[Image.Image, ...] = ()
    marks: tuple[Image.Image, ...] = ()
    mark_colours: tuple[int, ...] = ()

    def whole(self) -> Image.Image:
        """Mask of everything drawn."""
        mask = self.body
        for mark in self.marks:
            mask = ImageChops.lighter(mask, mark)
        return mask


def _canvas(size: float) -> tuple[Image.Image, ImageDraw.ImageDraw, float]:
    """An empty square mask for a figure of `size` pixels, its pen, and its centre (fine pixels)."""
    side = (math.ceil(size) + 2) * SUPERSAMPLE
    mask = Image.new("L", (side, side))
    return mask, ImageDraw.Draw(mask), (side - 1) / 2


def _polygon(size: float, points: list[tuple[float, float]], angle: float) -> Image.Image:
    """Mask of a polygon; points in units of half the size, around the origin, turned by `angle` (radians)."""
    mask, pen, centre = _canvas(size)
    radius = size * SUPERSAMPLE / 2
    cos, sin = math.cos(angle) * radius, math.sin(angle) * radius
    # whole fine pixels: the last bit of a sine must not decide about a mask, whatever the machine
    pen.polygon([(round(centre + x * cos - y * sin), round(centre + x * sin + y * cos)) for x, y in points], fill=255)
    return mask


def _box(centre: float, rx: float, ry: float) -> tuple[int, int, int, int]:
    return round(centre - rx), round(centre - ry), round(centre + rx), round(centre + ry)


def disc(size: float, _: Random) -> Figure:
    """A filled circle."""
    mask, pen, centre = _canvas(size)
    radius = size * SUPERSAMPLE / 2
    pen.ellipse(_box(centre, radius, radius), fill=255)
    return Figure(mask)


def triangle(size: float, rng: Random) -> Figure:
    """An equilateral triangle at any angle."""
    points = [(math.cos(a), math.sin(a)) for a in (math.tau * i / 3 for i in range(3))]
    mask = _polygon(size, points, rng.random() * math.tau)
    return Figure(mask)


def _ring(size: float, rng: Random, upward: bool) -> Figure:
    mask, pen, centre = _canvas(size)
    radius = size * SUPERSAMPLE / 2
    aspect = 0.8 + 0.2 * rng.random()
    rx, ry = (radius, radius * aspect) if rng.random() < 0.5 else (radius * aspect, radius)
    inner = 0.60
    pen.ellipse(_box(centre, rx, ry), fill=255)
    pen.ellipse(_box(centre, rx * inner, ry * inner), fill=0)
    annulus = mask.copy()
    middle = (270.0 if upward else 90.0) + 40 * rng.random() - 20  # degrees, clockwise from the right
    wedge = Image.new("L", mask.size)
    outer = _box(centre, rx * 1.5, ry * 1.5)
    ImageDraw.Draw(wedge).pieslice(outer, middle - 32, middle + 32, fill=255)
    return Figure(ImageChops.subtract(annulus, wedge), keys=(ImageChops.multiply(annulus, wedge),))


def ring_gap_up(size: float, rng: Random) -> Figure:
    """A ring whose gap is above."""
    return _ring(size, rng, upward=True)


def ring_gap_down(size: float, rng: Random) -> Figure:
    """A ring whose gap is below."""
    return _ring(size, rng, upward=False)


def _frame(size: float, rng: Random, same: bool) -> Figure:
    body, pen, centre = _canvas(size)
    half = size * SUPERSAMPLE / 2
    aspect = 0.72 + 0.28 * rng.random()
    rx, ry = (half, half * aspect) if rng.random() < 0.5 else (half * aspect, half)
    stroke = max(2.0, 0.055 * size) * SUPERSAMPLE
    pen.rectangle(_box(centre, rx, ry), fill=255)
    pen.rectangle(_box(centre, rx - stroke, ry - stroke), fill=0)
    side = 0.30 * 2 * min(rx, ry)
    left, top, right, bottom = _box(centre, rx, ry)
    near, far = round(side), round(side)
    if rng.random() < 0.5:
        corners = [(left, top, left + near, top + far), (right - near, bottom - far, right, bottom)]
    else:
        corners = [(right - near, top, right, top + far), (left, bottom - far, left + near, bottom)]
    marks = []
    for corner in corners:
        mark = Image.new("L", body.size)
        ImageDraw.Draw(mark).rectangle(corner, fill=255)
        marks.append(mark)
        body = ImageChops.subtract(body, mark)
    return Figure(body, tuple(marks), tuple(marks), (0, 0 if same else 1))


def frame_same(size: float, rng: Random) -> Figure:
    """A rectangular frame with two opposite corner marks of one colour."""
    return _frame(size, rng, same=True)


def frame_different(size: float, rng: Random) -> Figure:
    """A rectangular frame with two opposite corner marks of different colours."""
    return _frame(size, rng, same=False)


def _dumbbell(size: float, rng: Random, equal: bool) -> Figure:
    mask, pen, centre = _canvas(size)
    half = size * SUPERSAMPLE / 2
    first = (0.34 + 0.06 * rng.random()) * half
    second = first if equal else first * (0.42 + 0.1 * rng.random())
    angle = rng.random() * math.tau
    cos, sin = math.cos(angle), math.sin(angle)
    places, ends = [], []
    for sign, radius in ((1, first), (-1, second)):
        x, y = centre + sign * (half - radius) * cos, centre + sign * (half - radius) * sin
        places.append((round(x), round(y)))
        end = Image.new("L", mask.size)
        edges = (*(round(v - radius) for v in (x, y)), *(round(v + radius) for v in (x, y)))
        ImageDraw.Draw(end).ellipse(edges, 255)
        ends.append(end)
    pen.line(places, fill=255, width=max(SUPERSAMPLE * 2, round(0.10 * half)))
    return Figure(ImageChops.lighter(mask, ImageChops.lighter(*ends)), tuple(ends))


def dumbbell_equal(size: float, rng: Random) -> Figure:
    """Two discs of the same size joined by a thin bar."""
    return _dumbbell(size, rng, equal=True)


def dumbbell_unequal(size: float, rng: Random) -> Figure:
    """Two discs of different sizes joined by a thin bar."""
    return _dumbbell(size, rng, equal=False)


@dataclass(frozen=True)
class FigureClass:
    """How one class is drawn and how large (longer side in pixels) it may be."""

    name: str
    draw: Callable[[float, Random], Figure]
    smallest: float
    largest: float


# ours: the pairs start where their parts can be seen; the simple ones go down to 12 px
CLASSES = (
    FigureClass("disc", disc, 12, 130),
    FigureClass("triangle", triangle, 15, 150),
    FigureClass("ring_gap_up", ring_gap_up, 32, 235),
    FigureClass("ring_gap_down", ring_gap_down, 32, 235),
    FigureClass("frame_same", frame_same, 72, 240),
    FigureClass("frame_different", frame_different, 72, 240),
    FigureClass("dumbbell_equal", dumbbell_equal, 48, 230),
    FigureClass("dumbbell_unequal", dumbbell_unequal, 48, 230),
)
