"""Which file a name means: found where only one can be meant, named where several can."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ifpn.data import DataError, DefectPolicy, DetectionData
from ifpn.data.coco.files import FolderListing, match_names
from tests.data.cases import document, entry, picture


def folder(root: Path, *names: str) -> FolderListing:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return FolderListing(root)


@pytest.mark.parametrize(
    ("written", "on_disk"),
    [
        ("images\\a.jpg", "a.jpg"),
        ("images\\sub\\a.jpg", "sub/a.jpg"),
        ("my%20photo.jpg", "my photo.jpg"),
        ("A.JPG", "a.jpg"),
        ("Sub/A.jpg", "sub/a.jpg"),
        ("train/images/a.jpg", "a.jpg"),
        ("a.jpg", "deep/er/a.jpg"),
        ("https://host/x/my%20photo.jpg?sig=a/b", "my photo.jpg"),
        ("file:///home/somebody/a.jpg", "a.jpg"),
        ("s3://bucket/set/a.jpg", "a.jpg"),
        ("STRASSE.jpg", "straße.jpg"),
        ("a.png", "a.jpg"),  # converted
        ("images/a", "a.JPG"),
        ("sub/a.b", "sub/a.b.tiff"),
        ("images\\a1b2c3d4-a.jpg", "a.jpg"),  # Label Studio
        ("data/local-files/?d=set/images/a.jpg", "a.jpg"),
        ("a.jpg?size=large", "a.jpg"),
    ],
)
def test_another_spelling_is_found(tmp_path: Path, written: str, on_disk: str) -> None:
    listing = folder(tmp_path, on_disk, "other.jpg")
    assert match_names(listing, [written]) == ({0: on_disk}, {})


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "./a.jpg", "100%.jpg", "a\\b.jpg", "%20.jpg"])
def test_a_name_as_written_is_taken_first(tmp_path: Path, name: str) -> None:
    assert match_names(folder(tmp_path, name, "A.JPG", "other/a.jpg"), [name]) == ({}, {})


def test_what_may_be_several_files_is_none(tmp_path: Path) -> None:
    listing = folder(tmp_path, "x/a.jpg", "y/a.jpg", "B.jpg", "b.JPG")
    renamed, missing = match_names(listing, ["a.jpg", "b.jpg", "z/a.jpg", "y/A.jpg", "gone.jpg", "a.png", "z/a.png"])
    assert renamed == {3: "y/a.jpg"}
    assert missing[0] == "'a.jpg' may be 'x/a.jpg' or 'y/a.jpg'"
    assert "'b.jpg' may be" in missing[1]
    assert missing[2] == "'z/a.jpg'"  # a file of another folder is not the one that was meant
    assert missing[4] == "'gone.jpg'"
    assert "may be" in missing[5]
    assert missing[6] == "'z/a.png'"


def test_a_label_file_is_no_picture(tmp_path: Path) -> None:
    listing = folder(tmp_path, "a.jpg", "a.txt", "a.json", "b.txt")
    assert match_names(listing, ["a", "b"]) == ({0: "a.jpg"}, {1: "'b'"})


def test_several_names_for_one_file_are_none(tmp_path: Path) -> None:
    renamed, missing = match_names(folder(tmp_path, "a.jpg", "b.jpg"), ["x/a.jpg", "y/a.jpg", "x/b.jpg", "b.jpg"])
    assert renamed == {}
    assert "'x/a.jpg' and 'y/a.jpg' may both be 'a.jpg'" in missing[0]
    assert "may both be 'b.jpg'" in missing[2]
    assert 3 not in missing


def test_encoded_dots_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"x")
    listing = folder(tmp_path / "images", "a.jpg")
    for name in ("%2e%2e/secret.jpg", "x/%2e%2e/%2e%2e/secret.jpg", "file:///%2e%2e/secret.jpg", "..%5csecret.jpg"):
        assert match_names(listing, [name])[1] == {0: repr(name)}


def write(root: Path, *names: str) -> Path:
    for n, split in enumerate(("train", "val")):
        images = [{"id": i, "file_name": m, "width": 64, "height": 48} for i, m in enumerate(names)]
        boxes = [entry(i + n, i, [1, 2, 20, 20]) for i in range(len(names))]
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(document(images, boxes)))
    return root


def test_the_nearest_name_is_told(tmp_path: Path) -> None:
    root = write(tmp_path, "photo_0001.jpg")
    picture(root / "images/photo_0001.png.jpg")
    with pytest.raises(DataError, match=r"1 of 1 image files.*nearest name there is 'photo_0001\.png"):
        DetectionData(root, batch_size=1, seed=0, workers=0).setup("fit")


@pytest.mark.parametrize("name", ["/home/somebody/images/a.jpg", "C:\\data\\images\\a.jpg", "../images/a.jpg"])
def test_absolute_names_are_refused_and_fixed_on_demand(tmp_path: Path, name: str) -> None:
    root = write(tmp_path, name)
    picture(root / "images/a.jpg")
    with pytest.raises(DataError, match=r"unsafe_path 1(?s:.*)data\.policy\.unsafe_path=fix"):
        DetectionData(root, batch_size=1, seed=0, workers=0).setup("fit")
    data = DetectionData(root, batch_size=1, seed=0, workers=0, policy=DefectPolicy(unsafe_path="fix"))
    data.setup("fit")
    assert data.train_dataset[0][0].shape == (3, 48, 64)
