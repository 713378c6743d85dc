"""Scenes of the built-in data set: textured background, clutter, and figures that overlap a little.

What decides about annotations (classes, sizes, places) draws from Python's `Random`, whose stream is the same
on every machine; numpy's generator is used for textures only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ifpn.data.figures import CLASSES, SUPERSAMPLE, Figure

Colour = tuple[int, int, int]

SIZES = ((256, 256), (288, 256), (320, 256), (320, 240), (256, 288), (256, 320), (240, 320))
BACKGROUNDS: tuple[tuple[Colour, Colour], ...] = (
    ((214, 205, 186), (176, 165, 144)),  # sand
    ((92, 104, 116), (58, 68, 82)),  # slate
    ((128, 144, 120), (88, 106, 86)),  # moss
    ((196, 208, 214), (150, 168, 180)),  # mist
    ((122, 98, 84), (86, 66, 58)),  # bark
    ((224, 214, 214), (190, 172, 176)),  # plaster
    ((70, 84, 78), (44, 56, 54)),  # pine
    ((168, 158, 184), (128, 120, 150)),  # dusk
)
VIVID: tuple[Colour, ...] = (
    (222, 60, 54),
    (240, 150, 38),
    (246, 214, 66),
    (58, 172, 92),
    (40, 156, 188),
    (54, 96, 206),
    (142, 76, 190),
    (230, 96, 160),
    (245, 242, 234),
    (36, 34, 44),
)
# ours: pairs of marks that nobody takes for the same colour
MARK_COLOURS: tuple[Colour, ...] = ((226, 52, 48), (48, 104, 220), (248, 206, 48), (46, 170, 84))

MAX_COVERED = 0.35  # of a figure, by the ones drawn later
MAX_KEY_COVERED = 0.08  # of each part that tells its class
MAX_BOX_IOU = 0.5  # between any two boxes of an image


@dataclass(frozen=True)
class Placed:
    """A figure in a scene: `category` from 0; `box` is x, y, width, height in pixels (multiples of 1/4)."""

    category: int
    box: tuple[float, float, float, float]


@dataclass
class _Laid:
    """A figure already laid down, at picture resolution, to judge what a further one would cover."""

    whole: NDArray[np.bool_]
    free: NDArray[np.bool_]  # of `whole`, what later figures have left
    keys: list[NDArray[np.bool_]]
    box: tuple[float, float, float, float]


def draw_scene(seed: int, number: int) -> tuple[Image.Image, list[Placed]]:
    """Draw scene `number` of the data set `seed`: an RGB picture and its figures (at most 9 of them)."""
    rng = Random(f"{seed}:{number}")
    texture = np.random.default_rng([seed, number])
    width, height = SIZES[int(rng.random() * len(SIZES))]
    picture = _background(width, height, rng, texture)
    _clutter(picture, rng)
    laid: list[_Laid] = []
    placed: list[Placed] = []
    for category, size in _plan(rng, min(width, height)):
        figure = CLASSES[category].draw(size, rng)
        spot = _find_spot(figure, width, height, laid, rng)
        if spot is not None:
            laid.append(spot[1])
            _paint(picture, figure, spot[0], rng)
            placed.append(Placed(category, spot[1].box))
    grain = 3 * texture.standard_normal((height, width, 1), dtype=np.float32)
    pixels = np.rint(np.asarray(picture, dtype=np.float32) + grain)
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)), placed


def _plan(rng: Random, room: int) -> list[tuple[int, float]]:
    """Classes and sizes of a scene, largest first, so that small ones lie on top."""
    count = 5 + int(rng.random() * 5)
    plan = []
    for i in range(count):
        category = int(rng.random() * len(CLASSES))
        kind = CLASSES[category]
        top = min(kind.largest, 0.95 * room)
        if i > 0:  # at most one figure fills the picture
            top = min(top, max(0.4 * room, kind.smallest * 1.3))
        size = kind.smallest * (top / kind.smallest) ** rng.random()
        plan.append((category, size))
    return sorted(plan, key=lambda item: -item[1])


def _find_spot(
    figure: Figure, width: int, height: int, laid: list[_Laid], rng: Random
) -> tuple[tuple[int, int], _Laid] | None:
    """A place where the figure is wholly inside and covers no earlier one too much; None after 40 tries."""
    whole = figure.whole()
    bounds = whole.getbbox()
    if bounds is None:
        return None
    small = np.asarray(whole.reduce(SUPERSAMPLE)) > 127
    small_keys = [np.asarray(key.reduce(SUPERSAMPLE)) > 127 for key in figure.keys]
    x1, y1, x2, y2 = (v / SUPERSAMPLE for v in bounds)
    low_x, high_x = math.ceil(1 - x1), math.floor(width - 1 - x2)
    low_y, high_y = math.ceil(1 - y1), math.floor(height - 1 - y2)
    if high_x < low_x or high_y < low_y:
        return None
    for _ in range(40):
        x = low_x + int(rng.random() * (high_x - low_x + 1))
        y = low_y + int(rng.random() * (high_y - low_y + 1))
        box = (x + x1, y + y1, x2 - x1, y2 - y1)
        if any(_iou(box, other.box) > MAX_BOX_IOU for other in laid):
            continue
        mask = _embed(small, x, y, width, height)
        keys = [_embed(key, x, y, width, height) for key in small_keys]
        if all(_acceptable(mask, keys, other) for other in laid):
            for other in laid:
                other.free &= ~mask
            return (x, y), _Laid(mask, mask.copy(), keys, box)
    return None


def _acceptable(mask: NDArray[np.bool_], keys: list[NDArray[np.bool_]], other: _Laid) -> bool:
    """Whether `mask` over `other` leaves enough of it, and `other` does not show in the new key parts."""
    if (other.free & ~mask).sum() < (1 - MAX_COVERED) * other.whole.sum():
        return False
    hidden = (((key & mask).sum(), key.sum()) for key in other.keys)
    showing = (((key & ~mask & other.whole).sum(), key.sum()) for key in keys)  # e.g. through a ring's gap
    return all(part <= MAX_KEY_COVERED * whole for part, whole in (*hidden, *showing))


def _embed(mask: NDArray[np.bool_], x: int, y: int, width: int, height: int) -> NDArray[np.bool_]:
    """The small mask at (x, y) in an empty mask of the picture's size; what lies outside is cut off."""
    out = np.zeros((height, width), dtype=np.bool_)
    top, left = max(0, -y), max(0, -x)
    part = mask[top : height - y, left : width - x]
    out[y + top : y + top + part.shape[0], x + left : x + left + part.shape[1]] = part
    return out


def _iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    inter_w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    inter_h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(0.0, inter_w) * max(0.0, inter_h)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def _background(width: int, height: int, rng: Random, texture: np.random.Generator) -> Image.Image:
    """Two muted colours mixed by smooth noise, light from one side, and sometimes a weave or stripes."""
    light, dark = BACKGROUNDS[int(rng.random() * len(BACKGROUNDS))]
    mix = np.zeros((height, width), dtype=np.float32)
    for cells, weight in ((3, 0.55), (7, 0.3), (18, 0.15), (60, 0.08)):
        grid = Image.fromarray(texture.random((cells, cells), dtype=np.float32))
        mix += weight * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    style, angle, period = rng.random(), rng.random() * math.pi, 5 + 12 * rng.random()
    along = (xx * math.cos(angle) + yy * math.sin(angle)) * math.tau / period
    across = (yy * math.cos(angle) - xx * math.sin(angle)) * math.tau / period
    if style < 0.3:
        mix += 0.10 * np.sin(along)
    elif style < 0.5:
        mix += 0.09 * np.sin(along) * np.sin(across)
    slope = (xx / width - 0.5) * (rng.random() - 0.5) + (yy / height - 0.5) * (rng.random() - 0.5)
    mix = np.clip(mix + 0.5 * slope, 0, 1)[..., None]
    low, high = np.asarray(dark, dtype=np.float32), np.asarray(light, dtype=np.float32)
    return Image.fromarray(np.rint(low + (high - low) * mix).astype(np.uint8))


def _clutter(picture: Image.Image, rng: Random) -> None:
    """Strokes, arcs and specks that are no object, below the figures, near the background's colour."""
    scale = 2
    wide = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(wide)
    for _ in range(4 + int(rng.random() * 7)):
        x, y = rng.random() * wide.width, rng.random() * wide.height
        under = picture.getpixel((min(int(x / scale), picture.width - 1), min(int(y / scale), picture.height - 1)))
        shift = (25 + 40 * rng.random()) * (1 if rng.random() < 0.5 else -1)
        tint = tuple(int(min(255, max(0, v + shift + 24 * rng.random() - 12))) for v in _rgb(under))
        reach, angle = 16 + 90 * rng.random(), rng.random() * math.tau
        pen_width = 2 + int(rng.random() * 4)
        kind = rng.random()
        if kind < 0.5:
            bend = reach * (rng.random() - 0.5)
            middle = (
                x + reach * math.cos(angle) - bend * math.sin(angle),
                y + reach * math.sin(angle) + bend,
            )
            end = (x + 2 * reach * math.cos(angle), y + 2 * reach * math.sin(angle))
            pen.line([(x, y), middle, end], fill=tint, width=pen_width, joint="curve")
        elif kind < 0.8:
            start = math.degrees(angle)
            pen.arc(
                (x - reach, y - reach, x + reach, y + reach),
                start,
                start + 30 + 60 * rng.random(),
                tint,
                pen_width,
            )
        else:
            for _ in range(6):
                px, py, r = (
                    x + reach * (rng.random() - 0.5),
                    y + reach * (rng.random() - 0.5),
                    1.5 + 2 * rng.random(),
                )
                pen.ellipse((px - r, py - r, px + r, py + r), fill=tint)
    picture.paste(wide.reduce(scale))


def _rgb(pixel: object) -> Colour:
    """Pillow's pixel value of an RGB picture, typed."""
    if not isinstance(pixel, tuple):  # Pillow's stub allows numbers and None: pictures of other modes
        raise TypeError(f"pixel {pixel!r} is not RGB")
    red, green, blue = pixel
    return int(red), int(green), int(blue)


def _paint(picture: Image.Image, figure: Figure, at: tuple[int, int], rng: Random) -> None:
    """Draw the figure into the picture: soft shadow, main colour, marks in their colours."""
    whole = figure.whole().reduce(SUPERSAMPLE)
    x, y = at
    area = (max(0, x), max(0, y), min(picture.width, x + whole.width), min(picture.height, y + whole.height))
    under = np.asarray(picture.crop(area), dtype=np.float64).reshape(-1, 3).mean(axis=0)
    shadow = whole.filter(ImageFilter.GaussianBlur(2)).point([round(0.38 * v) for v in range(256)])
    picture.paste((12, 12, 18), (x + 2, y + 3), shadow)
    if figure.marks:  # the frame itself is dark on light and light on dark, so that only the marks have colour
        colour: Colour = (40, 38, 46) if under.mean() > 120 else (238, 234, 224)
    else:
        distance = [math.dist(candidate, under) for candidate in VIVID]
        visible = [c for c, d in zip(VIVID, distance, strict=True) if d > 105]
        colour = visible[int(rng.random() * len(visible))]
    _fill(picture, figure.body, at, colour)
    if figure.marks:
        first = int(rng.random() * len(MARK_COLOURS))
        second = (first + 1 + int(rng.random() * (len(MARK_COLOURS) - 1))) % len(MARK_COLOURS)
        for mark, which in zip(figure.marks, figure.mark_colours, strict=True):
            _fill(picture, mark, at, MARK_COLOURS[(first, second)[which]])


def _fill(picture: Image.Image, mask: Image.Image, at: tuple[int, int], colour: Colour) -> None:
    """Fill the mask with a colour, a little lighter at the upper left, with a darker rim one pixel wide."""
    small = mask.reduce(SUPERSAMPLE)
    side_x, side_y = small.size
    light = np.linspace(1.10, 0.90, side_y)[:, None, None] * np.linspace(1.04, 0.96, side_x)[None, :, None]
    lit = np.asarray(colour, dtype=np.float32) * light.astype(np.float32)
    tile = Image.fromarray(np.rint(np.clip(lit, 0, 255, out=lit)).astype(np.uint8))
    rim = ImageChops.subtract(small, small.filter(ImageFilter.MinFilter(3)))
    picture.paste(tile, at, small)
    dark = tuple(int(0.62 * v) for v in colour)
    picture.paste(dark, at, rim.point([round(0.75 * v) for v in range(256)]))
