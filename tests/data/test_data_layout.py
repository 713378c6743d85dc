"""Where files are found, which names are followed, and how every refusal reads."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifpn.data import BadImage, CocoDataset, DataError, DefectPolicy, DetectionData, load_annotations
from ifpn.data.coco.files import resolve_file, unsafe_reason
from ifpn.data.coco.layout import find_split
from tests.data.cases import document, entry, picture

LAYOUTS = [
    ("annotations/instances_{}2017.json", "{}2017"),  # COCO's own
    ("annotations/instances_{}2017.json", "images/{}2017"),
    ("annotations/instances_{}2014.json", "{}2014"),
    ("annotations/instances_{}.json", "images"),
    ("annotations/instances_{}.json", "images/{}"),
    ("annotations/instances_{}.json", "{}"),
    ("{}/_annotations.coco.json", "{}"),
]


@pytest.mark.parametrize(("annotations", "images"), LAYOUTS)
def test_known_layouts_are_found(coco_folder: Callable[..., Path], annotations: str, images: str) -> None:
    data = DetectionData(coco_folder(annotations, images), batch_size=2, seed=0, workers=0)
    data.setup("fit")
    assert (len(data.train_dataset), len(data.val_dataset)) == (4, 2)
    assert data.val_dataset[0][0].shape == (3, 48, 64)


def test_explicit_paths(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = coco_folder("labels/my_{}.json", "photos/{}_set")
    paths = {f"{s}_annotations": f"labels/my_{s}.json" for s in ("train", "val")}
    paths |= {"train_images": "photos/train_set", "val_images": str(root / "photos/val_set")}
    data = DetectionData(root, batch_size=2, seed=0, workers=0, **paths)
    data.setup()
    assert data.val_annotation_file == root / "labels/my_val.json"
    for wrong in ({"train_annotations": "no.json"}, {"train_images": "no"}, {"train_images": "a\0b"}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            DetectionData(root, batch_size=2, seed=0, **{**paths, **wrong}).setup()


def test_missing_and_ambiguous_files_are_explained(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root=.*nothing is not a folder"):
        find_split(tmp_path / "nothing", "train")
    with pytest.raises(DataError, match=r"no annotation file for train.*Looked for.*data\.train_annotations"):
        find_split(tmp_path, "train")
    root = coco_folder()
    (root / "annotations/instances_val2017.json").write_text("{}")
    with pytest.raises(DataError, match=r"instances_val.json.*instances_val2017.json.*data\.val_annotations"):
        find_split(root, "val")
    with pytest.raises(ValueError, match="allowed are train, val"):
        find_split(root, "test")
    (root / "images").rename(tmp_path / "elsewhere")
    data = DetectionData(root, batch_size=2, seed=0)
    with pytest.raises(DataError, match="train_images"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("a\0.jpg", "NUL"),
        ("\ud83d.jpg", "surrogate"),
        ("/etc/passwd", "absolute"),
        ("C:\\x.jpg", "absolute"),
        ("\\\\server\\x.jpg", "absolute"),
        ("../x.jpg", "leaves"),
        ("a/../../x.jpg", "leaves"),
        ("..\\x.jpg", "leaves"),
        ("x" * 300, "255"),
        ("é" * 150, "255"),
        ("ab/" * 2000 + "x", "4000"),
        ("a/", "folder"),
        (".", "folder"),
    ],
)
def test_hostile_names_are_refused_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    assert reason in (unsafe_reason(name) or "")
    with pytest.raises(DataError, match="refused"):
        resolve_file(tmp_path, name, tmp_path)
    images = [{"id": i, "file_name": n, "width": 8, "height": 8} for i, n in enumerate((name, "fine.jpg"))]
    (tmp_path / "a.json").write_text(json.dumps(document(images, [entry(1, 0, [0, 0, 5, 5])])))
    with pytest.raises(DataError, match=r"unsafe_path 1(?s:.*)image 0(?s:.*)data\.policy\.unsafe_path=drop"):
        load_annotations(tmp_path / "a.json", policy=DefectPolicy())
    found = load_annotations(tmp_path / "a.json", policy=DefectPolicy(unsafe_path="drop"))
    assert found.image_ids.tolist() == [1]
    assert found.log.counts == {"unsafe_path": 1}  # its box goes with it and is no defect of its own


@given(name=st.text(max_size=300))
def test_any_text_is_judged(name: str) -> None:
    reason = unsafe_reason(name)
    if reason is None:
        inside = os.path.normpath(os.path.join("/folder/of/images", name))
        assert inside.startswith("/folder/of/images/")
        assert len(name.encode()) <= 4000


@pytest.mark.parametrize(
    "name",
    [
        "plain.jpg",
        "sub/folder/x.jpg",
        "dot.in.name.jpg",
        "new\nline.jpg",
        "\U0001f600.jpg",
        "a b'\".jpg",
        "-rf.jpg",
    ],
)
def test_unusual_names_are_served(tmp_path: Path, name: str) -> None:
    picture(tmp_path / name)
    assert resolve_file(tmp_path, name, tmp_path) == tmp_path / name


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")])
def test_accents_are_found_in_either_form(tmp_path: Path, written: str, stored: str) -> None:
    name = "café/Ångström.jpg"
    picture(tmp_path / unicodedata.normalize(stored, name))
    images = [{"id": 1, "file_name": unicodedata.normalize(written, name), "width": 64, "height": 48}]
    (tmp_path / "a.json").write_text(json.dumps(document(images, [entry(1, 1, [0, 0, 9, 9])])))
    data = CocoDataset(load_annotations(tmp_path / "a.json", policy=DefectPolicy()), tmp_path, boundary=tmp_path)
    assert data[0][0].shape == (3, 48, 64)


def test_links_may_not_leave_the_folder_unless_allowed(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = coco_folder()
    inner, outer = root / "images/1.jpg", tmp_path / "outside.jpg"
    inner.rename(outer)
    inner.symlink_to(outer)
    (root / "images/2.jpg").rename(root / "moved.jpg")
    (root / "images/2.jpg").symlink_to(root / "moved.jpg")
    data = DetectionData(root, batch_size=2, seed=0, workers=0)
    assert data.train_dataset[1][1]["image_id"] == 2  # a link inside the folder is followed
    with pytest.raises(BadImage, match=r"leads out of.*data\.follow_links=true"):
        data.train_dataset[0]
    allowed = DetectionData(root, batch_size=2, seed=0, workers=0, follow_links=True)
    assert allowed.train_dataset[0][1]["image_id"] == 1


def test_a_linked_image_folder_is_refused_unless_allowed(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = coco_folder()
    (root / "images").rename(tmp_path / "photos")
    (root / "images").symlink_to(tmp_path / "photos")
    with pytest.raises(DataError, match=r"leads out of.*data\.follow_links=true"):
        DetectionData(root, batch_size=2, seed=0).setup("fit")
    DetectionData(root, batch_size=2, seed=0, follow_links=True).setup("fit")
    explicit = {"train_images": "images", "val_images": str(tmp_path / "photos")}  # named by the user: meant
    DetectionData(root, batch_size=2, seed=0, **explicit).setup("fit")
