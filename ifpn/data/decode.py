"""Image files as upright 8-bit RGB, whatever their mode and orientation tag; hostile and broken ones are refused.

The rules
* Orientation: a picture is turned as its EXIF tag says. With annotations, their width and height decide:
  equal to the upright size (always so for pictures without a tag) = turned; equal to the stored size only =
  the annotations were made by a tool that ignores the tag, and the picture is served as stored, so that
  boxes, detections and the annotation file share one frame; neither = an error naming both.
* 16-bit grey (I;16, and I as 16-bit values): the upper eight bits, v // 256, for every file alike: no
  stretching to a file's own range, which would make brightness depend on the content.
* Transparency (LA, PA, RGBA, P with a transparent colour): laid over white.
* 1, L, P, CMYK, YCbCr: Pillow's own conversion. Float and LAB pictures have no agreed meaning and are
  refused.
* Of several frames or pages the first counts.
"""

from __future__ import annotations

import contextlib
import importlib
import stat
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError, features
from torch import Tensor

from ifpn.errors import UserError

# Formats that decode pixels and nothing else (EPS would start an interpreter); JPEG includes MPO
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".png", ".webp", ".tif", ".tiff")
SUFFIXES += (".bmp", ".gif", ".ppm", ".pgm")
if features.check("avif"):
    FORMATS, SUFFIXES = (*FORMATS, "AVIF"), (*SUFFIXES, ".avif")
with contextlib.suppress(ImportError):  # of the extra 'heic': photographs of phones
    importlib.import_module("pillow_heif").register_heif_opener()
    FORMATS, SUFFIXES = (*FORMATS, "HEIF"), (*SUFFIXES, ".heic", ".heif", ".hif")
ORIENTATION = 0x0112
MAX_PIXELS = 80_000_000  # ours: several times a phone's photograph, and below Pillow's own limit

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = {**_TURN, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


class BadImage(UserError):
    """An image file that cannot be used; the message says which and why."""


class MissingImage(BadImage):
    """An image file that is not there."""


def decode_image(
    image: str | Path | bytes | Image.Image,
    *,
    annotated_size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Decode a file, its bytes, or a Pillow picture, to a tensor (3, H, W) uint8 RGB.

    annotated_size: (width, height) in the annotation file, which decides about the frame (see above)
    max_pixels:     a picture that claims more is refused before anything is decoded

    Raises BadImage for every file that is missing, broken, too large, or does not fit the annotated size.
    """
    name = "the picture" if isinstance(image, Image.Image) else str(image)
    name = f"an image of {len(image)} bytes" if isinstance(image, bytes) else name
    with _opened(image, name) as picture:
        return _decode(picture, name, max_pixels, annotated_size)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return width and height of an image file as it is shown, upright, from its header alone.

    Raises:
        BadImage: the file is missing, or no picture.
    """
    with _opened(path, str(path)) as picture:
        # a PNG may hold the tag behind its pixels, where only decoding finds it
        turned = _tag(picture) >= 5 if picture.format != "PNG" or "exif" in picture.info else False
        return _swap(picture.size, turned)


@contextlib.contextmanager
def _opened(image: str | Path | bytes | Image.Image, name: str) -> Iterator[Image.Image]:
    """Open a picture; whatever is raised while it is used becomes a BadImage that names it."""
    try:
        # Metadata warnings are of no use here; a bomb warning becomes the error it announces
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(image, Image.Image):
                yield image
                return
            if not isinstance(image, bytes):
                _require_file(image)
            # a handle, not a name: Pillow maps a file opened by name into memory, and then reads uncompressed
            # TIFFs that lie on their side with the wrong row length
            source = BytesIO(image) if isinstance(image, bytes) else Path(image).open("rb")  # noqa: SIM115  (closed below)
            with source as file, Image.open(file, formats=FORMATS) as picture:
                yield picture
    except BadImage:
        raise
    except FileNotFoundError as error:
        raise MissingImage(f"{name} does not exist") from error
    except UnidentifiedImageError as error:
        size = len(image) if isinstance(image, bytes) else Path(str(image)).stat().st_size
        what = "is empty" if size == 0 else f"is no picture in {', '.join(FORMATS)}"
        raise BadImage(f"{name} cannot be decoded: it {what}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImage(f"{name} is a decompression bomb: {error}") from error
    except Exception as error:  # decoders meeting broken bytes raise nearly every kind there is
        raise BadImage(f"{name} cannot be decoded: {type(error).__name__}: {error}") from error


def _require_file(path: str | Path) -> None:
    """Opening a pipe would wait for ever, and a device can be read without end."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise BadImage(f"{path} is not a file that holds a picture (it is a folder, a pipe or a device)")


def _decode(picture: Image.Image, path: str, max_pixels: int, annotated: tuple[int, int] | None) -> Tensor:
    width, height = picture.size
    if width * height > max_pixels:
        raise BadImage(
            f"{path} claims {width} x {height} pixels, and max_pixels={max_pixels} allows fewer. "
            "If the file is to be trusted, raise data.reading.max_pixels, or make the picture smaller"
        )
    if picture.format == "PNG":  # asking for its tag decodes it, and what that raises would be taken for a broken tag
        picture.load()
    early = _tag(picture)  # some plugins (TIFF) turn the picture while loading and drop the tag
    picture.load()
    late = _tag(picture)
    done = early != 1 and late == 1
    rgb = to_rgb(picture, path)
    orientation = early if done else late
    stored = _swap(rgb.size, done and orientation >= 5)
    upright = _swap(stored, orientation >= 5)
    if annotated is None or annotated == upright:
        turn = None if done else _TURN.get(orientation)
    elif annotated == stored:
        turn = _BACK.get(orientation) if done else None
    else:
        as_stored = f" ({stored[0]} x {stored[1]} before turning)" if stored != upright else ""
        raise BadImage(
            f"{path} is {upright[0]} x {upright[1]} pixels{as_stored}, but the annotation file says "
            f"{annotated[0]} x {annotated[1]}. "
            "Correct the width and height there, or the boxes will be wrong too"
        )
    if turn is not None:
        rgb = rgb.transpose(turn)
    # the copy is needed: the picture's own buffer cannot be written to
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _tag(picture: Image.Image) -> int:
    """The EXIF orientation, 1 if there is none or it is none of 1 to 8."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _swap(size: tuple[int, int], swap: bool) -> tuple[int, int]:
    return (size[1], size[0]) if swap else size


def to_rgb(picture: Image.Image, path: str) -> Image.Image:
    """An RGB picture of the same size by the rules above; raises BadImage for modes without one."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    convert = _CONVERT.get(picture.mode)
    if convert is None:
        allowed = ", ".join([*_CONVERT, "I;16", "I"])
        raise BadImage(f"{path} has the mode {picture.mode}, which has no rule for 8-bit RGB; allowed are {allowed}")
    return convert(picture)


def _plain(picture: Image.Image) -> Image.Image:
    return _over_white(picture) if "transparency" in picture.info else picture.convert("RGB")


def _over_white(picture: Image.Image) -> Image.Image:
    layer = picture.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


_CONVERT: dict[str, Callable[[Image.Image], Image.Image]] = {
    "1": _plain,
    "L": _plain,
    "LA": _over_white,
    "La": _over_white,
    "P": _plain,
    "PA": _over_white,
    "RGB": _plain,
    "RGBA": _over_white,
    "RGBa": _over_white,
    "RGBX": _plain,
    "CMYK": _plain,
    "YCbCr": _plain,
}
