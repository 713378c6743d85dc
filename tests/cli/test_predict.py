"""`predict.py` on the folders that people have: every readable image gets a picture, nothing is overwritten."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from pycocotools.coco import COCO

from ifpn.cli import predict as module
from ifpn.data import BadImage, DataError
from ifpn.errors import ConfigError
from ifpn.predictor import Predictor
from tests.data.cases import picture


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class OneBox(torch.nn.Module):
    """Stands for a trained detector: one box over the left half of every image."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        boxes = [torch.tensor([[0.0, 0.0, image.shape[2] / 2, image.shape[1]]]) for image in images]
        return [{"boxes": box, "scores": torch.tensor([0.75]), "labels": torch.tensor([1])} for box in boxes]


class TooLarge(OneBox):
    """Has no memory for images that are wider than 1000 pixels."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        if images[0].shape[2] > 1000:
            raise RuntimeError("not enough memory: you tried to allocate 1 TB")
        return super().forward(images)


def predictor(detector: torch.nn.Module) -> Predictor:
    return Predictor(detector, ["cat", "dog"], [3, 17], {}, torch.device("cpu"))


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    def run(source: object, out: Path, on_bad_image: str = "skip", detector: type = OneBox) -> dict:
        monkeypatch.setattr(module, "load", lambda *_, **settings: predictor(detector()))
        settings = {"source": source, "run_dir": str(out), "on_bad_image": on_bad_image, "size": None, "stream": None}
        settings |= {"flip": False, "ckpt": "x.ckpt", "device": "cpu", "score_threshold": 0.3}
        settings["source"] = str(source) if isinstance(source, Path) else source
        module.predict(OmegaConf.create(settings))
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


def test_patterns_lists_and_names_that_are_numbers(
    predict: Callable[..., dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("2024/a.jpg", "2024/b.png", "other/c.jpg"):
        picture(tmp_path / name)
    (tmp_path / "list.txt").write_text("# mine\n2024/a.jpg\n\nother/c.jpg\n2024/a.jpg\n")
    monkeypatch.chdir(tmp_path)
    found = {
        key: [image["file_name"] for image in predict(source, tmp_path / "out")["images"]]
        for key, source in {"pattern": "**/*.jpg", "list": tmp_path / "list.txt", "number": 2024}.items()
    }
    assert found == {
        "pattern": ["2024/a.jpg", "other/c.jpg"],
        "list": ["2024/a.jpg", "other/c.jpg"],
        "number": ["a.jpg", "b.png"],
    }
    again = predict("**/*.jpg", tmp_path / "out")["images"]
    assert [image["file_name"] for image in again] == found["pattern"]  # not the pictures that were drawn
    with pytest.raises(DataError, match="no file fits the pattern"):
        predict("none/*.jpg", tmp_path / "out")
    with pytest.raises(DataError, match="source= has no value"):
        predict(" ", tmp_path / "out")


def test_nothing_is_written_beside_the_run_folder(predict: Callable[..., dict], tmp_path: Path) -> None:
    """`..` in a list must not become part of a name."""
    for name in ("photos/a.jpg", "b.jpg"):
        picture(tmp_path / name)
    (tmp_path / "photos/list.txt").write_text("a.jpg\n../b.jpg\n")
    before = (tmp_path / "b.jpg").read_bytes()
    for out in (tmp_path / "out", tmp_path / "photos/out"):
        found = predict(tmp_path / "photos/list.txt", out)
        assert [image["file_name"] for image in found["images"]] == ["photos/a.jpg", "b.jpg"]
        assert names(out) == {"photos/a.jpg", "b.jpg"}
    assert (tmp_path / "b.jpg").read_bytes() == before


def test_hidden_files_and_folders_are_not_taken(predict: Callable[..., dict], tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/.ipynb_checkpoints/a-checkpoint.jpg", "in/._a.jpg"):
        picture(tmp_path / name)
    assert [image["file_name"] for image in predict(tmp_path / "in", tmp_path / "out")["images"]] == ["a.jpg"]


def test_an_address_is_fetched_or_refused(predict: Callable[..., dict], tmp_path: Path) -> None:
    picture(tmp_path / "served" / "a b.jpg")
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        content = predict(f"{address}/a%20b.jpg", tmp_path / "out")
        assert [image["file_name"] for image in content["images"]] == ["a b.jpg"]
        with pytest.raises(BadImage, match=r"cannot be fetched \(.+Download it, and give the file"):
            predict(f"{address}/gone.jpg", tmp_path / "out")
        server.shutdown()
    with pytest.raises(BadImage, match="Download it, and give the file"):
        predict(f"{address}/a%20b.jpg", tmp_path / "out")


def test_one_image_that_the_detector_cannot_take_loses_no_other(
    predict: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture(tmp_path / "photos" / "a.jpg")
    Image.new("RGB", (1001, 4)).save(tmp_path / "photos" / "b.jpg")
    (tmp_path / "photos" / "circle.jpg").symlink_to(tmp_path / "photos" / "circle.jpg")
    picture(tmp_path / "photos" / "d.jpg")
    content = predict(tmp_path / "photos", tmp_path / "out", detector=TooLarge)
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "d.jpg"]
    said = capsys.readouterr().out
    assert "b.jpg cannot be predicted: not enough memory" in said
    assert "circle.jpg" in said
