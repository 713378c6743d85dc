"""Checks of a data set: quick before training, whole on demand."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ifpn.cli.check_data import main
from ifpn.data import Augment, DataError, DetectionData, ImageReading
from ifpn.data.check import check_split, shared_images
from ifpn.errors import ConfigError
from ifpn.plots.dataset import as_json, as_text, draw_page
from tests.data.cases import entry


def spoil(root: Path) -> None:
    """A missing file, a truncated one, a wrong size, and three defective boxes."""
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"] += [
        entry(900, 1, [5, 5, 0, 9]),
        entry(901, 1, [1, 2, 3]),
        entry(902, 77, [1, 2, 3, 4]),
    ]
    content["images"][3]["width"] = 99
    path.write_text(json.dumps(content))
    (root / "images/1.jpg").unlink()
    (root / "images/2.jpg").write_bytes((root / "images/2.jpg").read_bytes()[:200])


def test_a_sound_set_has_no_defects(coco_folder: Callable[..., Path]) -> None:
    report, data = check_split(coco_folder(), "train")
    assert (report.images, report.boxes, report.crowd, report.counts) == (4, 4, 0, {})
    assert report.classes["3 cat"] == {"boxes": 2, "small": 2, "medium": 0, "large": 0}
    assert "no defects" in as_text([report])
    assert [Path(file).name for file in shared_images(data, data)] == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]


def test_every_defect_is_reported_with_its_ids(coco_folder: Callable[..., Path]) -> None:
    root = coco_folder()
    spoil(root)
    report, _ = check_split(root, "train")
    expected = {"zero_area": 1, "malformed_box": 1, "unknown_image": 1, "missing_file": 1, "bad_image": 2}
    assert report.counts == expected
    where = {(defect.kind, defect.image_id, defect.annotation_id) for defect in report.defects}
    assert where == {
        ("zero_area", 1, 900),
        ("malformed_box", 1, 901),
        ("unknown_image", 77, 902),
        ("missing_file", 1, None),
        ("bad_image", 2, None),
        ("bad_image", 4, None),
    }
    text = as_text([report])
    assert "DEFECT zero_area: 1" in text
    assert "zero_area: image 1, annotation 900: bbox [5.0, 5.0, 0.0, 9.0]" in text
    assert "is 48 x 64 pixels, but the annotation file says 99 x 64" in text
    assert json.loads(as_json([report]))["splits"][0]["counts"] == expected


def test_quick_check_refuses_missing_files_before_training(coco_folder: Callable[..., Path]) -> None:
    root = coco_folder()
    (root / "images/3.jpg").unlink()
    options = {"batch_size": 1, "seed": 0, "workers": 0}
    with pytest.raises(DataError, match=r"1 of 4 image files are not in .*'3\.jpg'.*on_bad_image=skip"):
        DetectionData(root, **options).setup("fit")
    DetectionData(root, **options, reading=ImageReading("skip")).setup("fit")
    with pytest.raises(DataError, match="max_bad=0"):
        DetectionData(root, **options, reading=ImageReading("skip", max_bad=0)).setup("fit")
    DetectionData(root, **options, check=False).setup("fit")


def test_quick_check_finds_wrong_sizes(coco_folder: Callable[..., Path]) -> None:
    root = coco_folder()
    path = root / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["width"], image["height"] = image["height"] + 1, image["width"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"image 5 of .*64 x 48 pixels, but the annotation file says 49 x 64"):
        DetectionData(root, batch_size=1, seed=0, workers=0).setup("fit")


def test_page_shows_images_with_and_without_augmentation(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = coco_folder()
    (root / "images/2.jpg").unlink()
    _, data = check_split(root, "train")
    assert draw_page(data, Augment(), tmp_path / "page.png", count=4, seed=0) == 3
    with Image.open(tmp_path / "page.png") as page:
        assert page.width > 600
        assert len(page.convert("RGB").getcolors(2**24) or []) > 100


def test_the_command_writes_reports_and_says_by_its_status(
    coco_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = coco_folder()
    assert main([str(root), "--out", str(tmp_path / "sound")]) == 0
    spoil(root)
    assert main([str(root), "--out", str(tmp_path / "out"), "--pictures", "2"]) == 1
    assert "DEFECT missing_file: 1" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.txt", "report.json", "train.png", "val.png"}
    assert len(json.loads((tmp_path / "out/report.json").read_text())["splits"]) == 2
    assert main([str(tmp_path / "out"), "--out", str(tmp_path / "none")]) == 2
    with pytest.raises(ConfigError, match=r"data\.augment\.iou_crop=7"):
        main([str(root), "--out", str(tmp_path / "out"), "--iou-crop", "7"])


def test_one_file_for_all_images_is_checked_as_it_is_trained(
    coco_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The halves of a training with data.val_share; a defect of the file is told once."""
    root = coco_folder()
    spoil(root)
    shutil.move(root / "annotations/instances_train.json", root / "result.json")
    shutil.rmtree(root / "annotations")
    out = ["--out", str(tmp_path / "out")]
    assert main([str(root), *out]) == 2
    assert "data.val_share=0.1" in capsys.readouterr().out
    for share in (["--val-share", "0.25"], ["data.val_share=0.25"]):
        assert main([f"data.root={root}", *out, *share]) == 1
        train, val = json.loads((tmp_path / "out/report.json").read_text())["splits"]
        assert (train["split"], train["images"], val["split"], val["images"]) == ("train", 3, "val", 1)
        together = Counter(train["counts"]) + Counter(val["counts"])
        assert together == {"zero_area": 1, "malformed_box": 1, "unknown_image": 1, "missing_file": 1, "bad_image": 2}
        assert not val["counts"].keys() & {"zero_area", "malformed_box", "unknown_image"}
    kept = DetectionData(root, batch_size=1, seed=0, workers=0, val_share=0.25, check=False)
    assert len(kept.val_dataset) == val["images"]
    main([str(root), *out, "--val-share", "0"])
    assert [one["split"] for one in json.loads((tmp_path / "out/report.json").read_text())["splits"]] == ["train"]
    with pytest.raises(SystemExit):
        main([str(root), *out, "--val-share", "1"])


def test_the_box_format_of_a_training_is_that_of_the_check(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = coco_folder()
    for split in ("train", "val"):
        path = root / f"annotations/instances_{split}.json"
        content = json.loads(path.read_text())
        for one in content["annotations"]:
            x, y, w, h = one["bbox"]
            one["bbox"] = [x, y, x + w, y + h]
        path.write_text(json.dumps(content))
    out = ["--out", str(tmp_path / "out")]
    assert main([str(root), *out, "data.policy.box_format=xyxy"]) == 0
    with pytest.raises(ConfigError, match=r"data\.policy\.box_format=corners: must be xywh"):
        main([str(root), *out, "--box-format", "corners"])
