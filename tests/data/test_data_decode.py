"""Every mode and orientation comes out upright, its boxes on the right pixels; every broken file is named."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ifpn.data import (
    Augment,
    BadImage,
    CocoDataset,
    DefectPolicy,
    ImageFolder,
    ImageReading,
    decode_image,
    load_annotations,
)
from ifpn.data.coco.defects import DataError
from tests.data.cases import document, entry, picture

WIDTH, HEIGHT = 60, 40
MARK = (36, 8, 56, 24)  # x1, y1, x2, y2 in the upright picture: off centre, so that no turn maps it to itself

# EXIF 2.3, tag 0x0112: the visual side of the stored picture's row 0 and of its column 0
SIDES = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}

# mode, format; a white mark on black is visible in all of them
MODES = [
    ("1", "PNG"),
    ("1", "TIFF"),
    ("L", "JPEG"),
    ("L", "PNG"),
    ("LA", "PNG"),
    ("P", "PNG"),
    ("RGB", "JPEG"),
    ("RGB", "PNG"),
    ("RGB", "WEBP"),
    ("RGB", "TIFF"),
    ("RGBA", "PNG"),
    ("RGBA", "WEBP"),
    ("RGBA", "TIFF"),
    ("CMYK", "JPEG"),
    ("CMYK", "TIFF"),
    ("I;16", "PNG"),
    ("I;16", "TIFF"),
]


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores so that the tag turns it to `upright`: by the tag's definition, pixel by pixel."""
    row_side, column_side = SIDES[orientation]
    height, width = upright.shape[:2]
    shape = (width, height) if row_side in "lr" else (height, width)
    stored = np.zeros(shape, upright.dtype)
    for r in range(shape[0]):
        for c in range(shape[1]):
            place = {row_side: r, column_side: c}
            y = place["t"] if "t" in place else height - 1 - place["b"]
            x = place["l"] if "l" in place else width - 1 - place["r"]
            stored[r, c] = upright[y, x]
    return stored


def marked() -> np.ndarray:
    upright = np.zeros((HEIGHT, WIDTH), np.uint8)
    upright[MARK[1] : MARK[3], MARK[0] : MARK[2]] = 255
    return upright


def save(path: Path, stored: np.ndarray, mode: str, format_: str, orientation: int) -> None:
    if mode == "I;16":
        image = Image.fromarray(stored.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(stored).convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format_ in ("JPEG", "WEBP") else {}
    image.save(path, format_, exif=exif, **options)


def found_mark(image: torch.Tensor) -> list[int]:
    bright = image.float().mean(dim=0) > 127
    rows, columns = torch.nonzero(bright.any(dim=1)).flatten(), torch.nonzero(bright.any(dim=0)).flatten()
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("mode", "format_"), MODES)
def test_marker_is_where_the_box_says(tmp_path: Path, mode: str, format_: str, orientation: int) -> None:
    upright = marked()
    stored = as_stored(upright, orientation)
    path = tmp_path / f"x.{format_.lower()}"
    save(path, stored, mode, format_, orientation)
    with Image.open(path) as image:
        assert image.getexif().get(0x0112, 1) == orientation
    for frame in (upright, stored):
        rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
        box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        height, width = frame.shape
        images = [{"id": 1, "file_name": path.name, "width": width, "height": height}]
        if frame is stored and width == WIDTH:
            continue  # same size as upright: the tag is then believed
        (tmp_path / "a.json").write_text(json.dumps(document(images, [entry(1, 1, [int(v) for v in box])])))
        data = CocoDataset(load_annotations(tmp_path / "a.json", policy=DefectPolicy()), tmp_path)
        served, target = data[0]
        assert (served.dtype, served.shape) == (torch.uint8, (3, height, width))
        # JPEG and WebP blur an edge by less than a pixel at half height
        assert target["boxes"].tolist() == [found_mark(served)]


@pytest.mark.parametrize("orientation", [1, 6])
def test_without_annotations_a_picture_is_upright(tmp_path: Path, orientation: int) -> None:
    for format_ in ("PNG", "TIFF"):
        save(tmp_path / f"x.{format_.lower()}", as_stored(marked(), orientation), "L", format_, orientation)
    folder = ImageFolder(tmp_path)
    for i in range(len(folder)):
        assert found_mark(folder[i][1]) == list(MARK)
    with Image.open(tmp_path / "x.png") as opened:
        assert found_mark(decode_image(opened)) == list(MARK)


def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 511], [32768, 40000, 65279, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert torch.equal(decode_image(tmp_path / name)[0], torch.from_numpy((values // 256).astype(np.uint8)))


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    Image.fromarray(pixels[..., 2:]).save(tmp_path / "la.png")
    palette = Image.fromarray(pixels[..., 3]).quantize(2)
    clear = palette.getpixel((0, 3))
    palette.save(tmp_path / "p.png", transparency=clear)
    for name in ("rgba.png", "la.png", "p.png"):
        image = decode_image(tmp_path / name)
        assert (image[:, 2:] == 255).all(), name
        assert (image[:, :2] == (255 if name == "p.png" else 0)).all(), name


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_modes_without_a_rule_are_named(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / "x.tif")
    with pytest.raises(BadImage, match=f"mode {mode}.*allowed are"):
        decode_image(tmp_path / "x.tif")


def test_a_size_that_fits_no_frame_names_both(tmp_path: Path) -> None:
    save(tmp_path / "x.png", as_stored(marked(), 6), "RGB", "PNG", 6)
    with pytest.raises(BadImage, match=r"60 x 40 pixels \(40 x 60 before turning\).*says 61 x 40"):
        decode_image(tmp_path / "x.png", annotated_size=(61, 40))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", b"x"),
        (b"IEND", b""),
    )
    chunks = [struct.pack(">I", len(body)) + name + body for name, body in parts]
    sums = [struct.pack(">I", zlib.crc32(name + body)) for name, body in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk + check for chunk, check in zip(chunks, sums, strict=True))


def broken_files(folder: Path) -> dict[str, str]:
    """Files that are no pictures, and what their error says."""
    picture(folder / "good.jpg")
    good = (folder / "good.jpg").read_bytes()
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"<html>404</html>",
        "half.jpg": good[: len(good) // 2],
        "header.jpg": good[:30],
        "huge.png": png_claiming(60000, 60000),
        "large.png": png_claiming(12000, 9000),
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    words = dict.fromkeys(contents, "cannot be decoded")
    return {
        **words,
        "folder.jpg": "folder.jpg",
        "huge.png": "decompression bomb",
        "large.png": "decompression bomb",
        "gone.jpg": "does not exist",
    }


def test_broken_files_are_named(tmp_path: Path) -> None:
    for name, words in broken_files(tmp_path).items():
        with pytest.raises(BadImage, match=words) as caught:
            decode_image(tmp_path / name)
        assert name in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_bad_image(tmp_path: Path, data: st.DataObject) -> None:
    format_ = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"]))
    path = tmp_path / "x.bin"
    Image.fromarray(marked()).convert("RGB").save(path, format_)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        image = decode_image(path, max_pixels=10**6)
    except BadImage:  # any other error fails the test
        pass
    else:
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3


def write_set(folder: Path, names: list[str]) -> Path:
    images = [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)]
    boxes = [entry(i + 1, i, [1, 2, 30, 30]) for i in range(len(names))]
    (folder / "a.json").write_text(json.dumps(document(images, boxes)))
    return folder / "a.json"


def dataset(folder: Path, names: list[str], training: bool = True, **reading: object) -> CocoDataset:
    annotations = load_annotations(write_set(folder, names), policy=DefectPolicy())
    augment = Augment(flip=0) if training else None
    return CocoDataset(annotations, folder, augment=augment, reading=ImageReading(**reading))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_damage_in_the_pixels_is_told_wherever_the_decoder_notices(tmp_path: Path, kind: str) -> None:
    """Half of a picture must not come out black in silence."""
    pixels = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    file = tmp_path / f"a.{kind.lower()}"
    Image.fromarray(pixels).save(file)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 60] = bytes(255 - byte for byte in content[middle : middle + 60])
    file.write_bytes(content)
    try:
        with Image.open(file) as picture:
            picture.load()
        noticed = False
    except (OSError, SyntaxError, ValueError):
        noticed = True
    assert noticed or kind != "PNG"  # its checksums notice everything
    if noticed:
        with pytest.raises(BadImage, match="cannot be decoded"):
            decode_image(file)


def test_bad_images_are_refused_with_their_id(tmp_path: Path) -> None:
    broken_files(tmp_path)
    data = dataset(tmp_path, ["good.jpg", "half.jpg"])
    data[0]
    with pytest.raises(BadImage, match=r"image 1 of .*half\.jpg.*on_bad_image=skip"):
        data[1]


def test_skipped_images_are_replaced_the_same_way_each_time_and_counted(tmp_path: Path) -> None:
    broken_files(tmp_path)
    data = dataset(tmp_path, ["good.jpg", "half.jpg", "gone.jpg", "good.jpg"], on_bad_image="skip", max_bad=2)
    assert [data[i][1]["image_id"] for i in (0, 1, 2, 3, 1, 2)] == [0, 3, 3, 3, 3, 3]
    assert data.bad_images() == [1, 2]


def test_skipping_is_bounded(tmp_path: Path) -> None:
    names = list(broken_files(tmp_path))
    data = dataset(tmp_path, names, on_bad_image="skip", max_bad=3)
    with pytest.raises(BadImage, match="max_bad=3"):
        data[0]
    few = dataset(tmp_path, ["half.jpg", "gone.jpg"], on_bad_image="skip", max_bad=9)
    with pytest.raises(BadImage, match="2 images in a row"):
        few[0]


def test_in_validation_a_skipped_image_keeps_its_id_and_boxes(tmp_path: Path) -> None:
    broken_files(tmp_path)
    data = dataset(tmp_path, ["half.jpg", "good.jpg"], training=False, on_bad_image="skip")
    image, target = data[0]
    assert target["image_id"] == 0
    assert len(target["boxes"]) == 1
    assert image.shape == (3, 48, 64)
    assert (image == 127).all()


def test_photographs_of_phones_are_read_where_the_library_is_there(tmp_path: Path) -> None:
    """The library itself turns HEIC pictures upright."""
    pytest.importorskip("pillow_heif")
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.HEIC", "HEIF", quality=95)
    (tmp_path / "broken.heic").write_bytes((tmp_path / "a.HEIC").read_bytes()[:300])
    image = decode_image(tmp_path / "a.HEIC")
    assert image.float().sub(torch.from_numpy(pixels).permute(2, 0, 1)).abs().mean() < 5  # of 255: lossy
    with pytest.raises(BadImage, match=r"broken\.heic cannot be decoded"):
        decode_image(tmp_path / "broken.heic")
    assert len(ImageFolder(tmp_path)) == 2


def test_reading_refuses_impossible_settings() -> None:
    for wrong in ({"on_bad_image": "ignore"}, {"max_bad": -1}, {"max_pixels": 0}, {"max_pixels": 10**12}):
        with pytest.raises(ValueError, match="must be"):
            ImageReading(**wrong)


def test_image_folder_is_sorted_and_takes_one_file_too(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "c.txt"):
        picture(tmp_path / "x.jpg")
        (tmp_path / name).write_bytes((tmp_path / "x.jpg").read_bytes())
    (tmp_path / "x.jpg").unlink()
    folder = ImageFolder(tmp_path)
    assert [folder[i][0].name for i in range(len(folder))] == ["a.PNG", "b.jpg"]
    assert len(ImageFolder(tmp_path / "b.jpg")) == 1
    with pytest.raises(DataError, match="does not exist"):
        ImageFolder(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no image files"):
        ImageFolder(tmp_path / "empty")
