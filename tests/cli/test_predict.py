"""`predict.py` on the folders that people have: every readable image gets a picture, nothing is overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from pycocotools.coco import COCO

from ifpn.data import BadImage, DataError
from ifpn.errors import ConfigError
from ifpn.predictor import predict as module
from tests.data.cases import picture


class OneBox:
    """Stands for a trained detector: one box over the left half of every image."""

    class_names = ("cat", "dog")
    category_ids = (3, 17)

    def __call__(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        height, width = image.shape[1:]
        boxes = torch.tensor([[0.0, 0.0, width / 2, height]])
        return {"boxes": boxes, "scores": torch.tensor([0.75]), "labels": torch.tensor([1])}


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    def run(source: Path, out: Path, on_bad_image: str = "skip") -> dict:
        monkeypatch.setattr(module, "load", lambda path, device: OneBox())
        settings = {"source": str(source), "run_dir": str(out), "on_bad_image": on_bad_image}
        module.predict(OmegaConf.create({**settings, "ckpt": "x.ckpt", "device": "cpu", "score_threshold": 0.3}))
        content: dict = json.loads((out / "predictions.json").read_text())
        return content

    return run


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}


def test_each_image_below_the_folder_has_a_picture_of_its_own(predict: Callable[..., dict], tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for name in (
        "a.jpg",
        "a_png.jpg",
        "sub/deep/a.jpg",
        "caf\u00e9 \U0001f600.jpg",
        "new\nline.jpg",
        "x" * 251 + ".jpg",
    ):
        picture(source / name)
    Image.new("CMYK", (30, 50)).save(source / "cmyk.JPEG", "JPEG")
    Image.new("LA", (30, 50)).save(source / "a.png")
    (source / "notes.txt").write_text("no picture")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (60, 40)).save(source / "turned.jpg", exif=turned)
    out = source / "out"
    content = predict(source, out)
    assert predict(source, out) == content  # the pictures of the first time are no images of the second
    assert len(content["images"]) == len(names(out)) == len(content["annotations"]) == 9
    assert {"a.jpg", "a_png.jpg", "a_png_2.jpg", "sub/deep/a.jpg", "cmyk_JPEG.jpg", "x" * 251 + ".jpg"} <= names(out)
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in content["images"]}
    assert sizes["turned.jpg"] == (40, 60)
    assert "sub/deep/a.jpg" in sizes
    coco = COCO(str(out / "predictions.json"))
    assert {a["category_id"] for a in coco.anns.values()} == {17}
    box = coco.anns[coco.getAnnIds(imgIds=[i["id"] for i in content["images"] if i["file_name"] == "turned.jpg"])[0]]
    assert (box["bbox"], box["area"]) == ([0, 0, 20, 60], 1200)


def test_bad_files_are_skipped_and_named_or_refused(
    predict: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = tmp_path / "photos"
    picture(source / "good.jpg")
    (source / "empty.jpg").write_bytes(b"")
    (source / "half.jpg").write_bytes((source / "good.jpg").read_bytes()[:300])
    (source / "nowhere.jpg").symlink_to(tmp_path / "gone")
    os.mkfifo(source / "pipe.jpg")  # must not be waited for
    content = predict(source, tmp_path / "out")
    assert [image["file_name"] for image in content["images"]] == ["good.jpg"]
    said = capsys.readouterr().out
    for part in ("empty.jpg cannot be decoded: it is empty", "half.jpg", "nowhere.jpg does not exist", "(3 skipped)"):
        assert part in said
    with pytest.raises(BadImage, match=r"on_bad_image=skip"):
        predict(source, tmp_path / "out", on_bad_image="refuse")
    (source / "good.jpg").unlink()
    with pytest.raises(BadImage, match="none of 3 image files"):
        predict(source, tmp_path / "out")
    with pytest.raises(BadImage, match=r"none of 1 .*half\.jpg"):
        predict(source / "half.jpg", tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="has no image files"):
        predict(tmp_path / "none", tmp_path / "out")


def test_images_are_never_overwritten(predict: Callable[..., dict], tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    before = (tmp_path / "a.jpg").read_bytes()
    for source in (tmp_path, tmp_path / "a.jpg"):
        with pytest.raises(ConfigError, match=r"overwrite the image .*a\.jpg.*run_dir=FOLDER"):
            predict(source, tmp_path)
    assert (tmp_path / "a.jpg").read_bytes() == before
    assert len(predict(tmp_path / "a.jpg", tmp_path / "new")["images"]) == 1


def test_picture_names_differ_also_without_capitals() -> None:
    files = [Path(name) for name in ("A.jpg", "a.jpg", "a.JPG", "sub/a.jpg", "\u00e9" * 126 + ".tif")]
    given = module.picture_names(files)
    assert len({str(name).casefold() for name in given}) == len(files)
    assert all(len(name.name.encode()) <= 255 and name.suffix == ".jpg" for name in given)
    assert given[3] == Path("sub/a.jpg")
