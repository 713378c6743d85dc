"""YOLO folders: boxes in pixels, classes, splits, and what is wrong with lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from ifpn.data import DataError, DetectionData
from ifpn.data.check import check_split
from tests.data.cases import picture

WIDTH, HEIGHT = 64, 48


def write(root: Path, yaml: str, images: str = "images/{}", val: str = "val") -> Path:
    for split, count in (("train", 3), (val, 1)):
        for n in range(count):
            picture(root / images.format(split) / f"{n}.jpg", WIDTH, HEIGHT, n)
    (root / "data.yaml").write_text(yaml)
    return root


def label(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


YAML = "path: ../somewhere/else\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


def test_boxes_and_polygons_in_pixels(tmp_path: Path) -> None:
    root = write(tmp_path, YAML)
    label(root, "labels/train/0.txt", "0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.25 0.5 0.9\n")
    label(root, "labels/train/1.txt", "1 0.1 0.1 0.6 0.2 0.3 0.8\n")
    label(root, "labels/val/0.txt", "0 0.5 0.5 0.25 0.25\n\n")
    data = DetectionData(root, batch_size=1, seed=0, workers=0, train_empty_images=True)
    data.setup("fit")
    assert (data.class_names, data.category_ids, len(data.train_dataset)) == (["cat", "dog"], [0, 1], 3)
    found = data.train_dataset.annotations
    assert found.file_names() == ["images/train/0.jpg", "images/train/1.jpg", "images/train/2.jpg"]
    assert found.boxes(0)[0].tolist() == [[16, 12, 48, 36], [8, 0, 24, 24]]
    assert found.boxes(1)[0].ravel() == pytest.approx([6.4, 4.8, 38.4, 38.4], abs=1e-4)  # float32
    assert found.boxes(1)[1].tolist() == [1]
    assert len(found.boxes(2)[0]) == 0  # no text file: no objects
    assert data.val_dataset[0][1]["boxes"].tolist() == [[24, 18, 40, 30]]  # type: ignore[union-attr]
    assert not found.log.counts


def test_key_points_behind_a_box_are_passed_over(tmp_path: Path) -> None:
    """An even number of them looks like a polygon, and the box around them is another one."""
    root = write(tmp_path, YAML + "kpt_shape: [4, 2]\n")
    points = "0.45 0.45 0.55 0.45 0.45 0.55 0.55 0.55"
    label(root, "labels/train/0.txt", f"0 0.5 0.5 0.2 0.25 {points}\n1 0.5 0.5 0.5 0.5\n")
    report, data = check_split(root, "train")
    assert data.annotations.boxes(0)[0].ravel() == pytest.approx([25.6, 18, 38.4, 30], abs=1e-4)
    assert report.counts == {"malformed_box": 1}  # a line without its key points
    (root / "data.yaml").write_text(YAML + "kpt_shape: many\n")
    with pytest.raises(DataError, match="kpt_shape=many: must be two whole numbers"):
        check_split(root, "train")


def test_roboflows_layout_and_a_list_of_names(tmp_path: Path) -> None:
    root = write(tmp_path, "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: [ball]\n", "{}/images", "valid")
    label(root, "train/labels/0.txt", "0 0.5 0.5 0.5 0.5")
    label(root, "valid/labels/0.txt", "0 0.5 0.5 0.5 0.5")
    data = DetectionData(root, batch_size=1, seed=0, workers=0)
    data.setup("fit")
    assert (data.class_names, len(data.train_dataset), len(data.val_ground_truth()["annotations"])) == (["ball"], 1, 1)


def test_defects_are_counted_as_anywhere(tmp_path: Path) -> None:
    root = write(tmp_path, YAML)
    lines = [
        "0 0.5 0.5 0.5 0.5",
        "0 0.5 x 0.5 0.5",
        "0 0.5 0.5",
        "7 0.5 0.5 0.2 0.2",
        "cat 0.5 0.5 0.2 0.2",
        "0 0.5 0.5 0 0.2",
    ]
    label(root, "labels/train/0.txt", "\n".join(lines))
    report, _ = check_split(root, "train")
    assert report.counts == {"zero_area": 1, "malformed_box": 2, "malformed_annotation": 1, "unknown_category": 1}
    assert any("line 2 of 0.txt: 0 0.5 x 0.5 0.5" in defect.detail for defect in report.defects)
    assert report.classes["0 cat"]["boxes"] == 1


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    root = write(tmp_path, YAML.replace("val: images/val\n", ""))
    label(root, "labels/train/0.txt", "0 0.5 0.5 0.5 0.5")
    with pytest.raises(DataError, match=r"no annotation file for val.*data\.val_share=0\.1"):
        DetectionData(root, batch_size=1, seed=0, workers=0).setup("fit")
    held = DetectionData(root, batch_size=1, seed=0, workers=0, val_share=0.3, train_empty_images=True)
    held.setup("fit")
    assert (len(held.train_dataset), len(held.val_dataset)) == (2, 1)
    (root / "data.yaml").write_text(YAML.replace("images/train", "images/nowhere"))
    with pytest.raises(DataError, match=r"images/nowhere is not a folder"):
        DetectionData(root, batch_size=1, seed=0, workers=0).setup("fit")
