"""A short clip without a camera: a window pans over each photograph in turn.

    python scripts/make_clip.py photos/ clip.mp4 [--seconds 2] [--rate 25] [--width 640] [--height 480]

For trying and timing `ifpn predict source=clip.mp4 stream=true`: neighbouring frames are alike, and the scene
changes from one photograph to the next.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

_ZOOM = 1.25  # of the photograph over the window: room to pan


def make_clip(photographs: Iterable[Path], clip: Path, *, seconds: float, rate: int, size: tuple[int, int]) -> int:
    """Write an H.264 clip (MPEG-4 where PyAV has no such encoder); the number of frames.

    Args:
        photographs: image files.
        clip: the mp4 to write.
        seconds: of each photograph.
        rate: frames per second.
        size: width and height in pixels, even.
    """
    count = 0
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for photograph in photographs:
            for view in _views(photograph, round(seconds * rate), size):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(view), format="rgb24")))
                count += 1
        container.mux(stream.encode(None))
    return count


def _views(photograph: Path, count: int, size: tuple[int, int]) -> Iterator[Image.Image]:
    """The window going from the top left corner to the bottom right one."""
    width, height = size
    with Image.open(photograph) as file:
        upright = ImageOps.exif_transpose(file).convert("RGB")
    whole = ImageOps.fit(upright, (round(width * _ZOOM), round(height * _ZOOM)))
    for i in range(count):
        left, top = ((all_ - part) * i / max(1, count - 1) for all_, part in zip(whole.size, size, strict=True))
        # Between pixels, so that a slow pan does not jump.
        yield whole.transform(size, Image.Transform.AFFINE, (1, 0, left, 0, 1, top), resample=Image.Resampling.BILINEAR)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of .jpg and .png files")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each photograph")
    parser.add_argument("--rate", type=int, default=25, help="frames per second")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    given = parser.parse_args()
    files = sorted(p for p in given.photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    size = given.width // 2 * 2, given.height // 2 * 2
    frames = make_clip(files, given.clip, seconds=given.seconds, rate=given.rate, size=size)
    print(f"{frames} frames of {len(files)} photographs in {given.clip}")


if __name__ == "__main__":
    main()
