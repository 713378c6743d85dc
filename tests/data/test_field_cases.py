"""Files as tools really write them: what trains, what is evaluated, and the one line that says so."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ifpn.data import BadImage, DataError, DefectPolicy, DetectionData, ImageFolder
from ifpn.data.decode import SUFFIXES
from ifpn.evaluation import CocoMetric, GroundTruth
from tests.data.cases import entry, picture

WIDTH, HEIGHT = 96, 80
CLASSES = [{"id": 1, "name": "square", "supercategory": "none"}, {"id": 2, "name": "disc", "supercategory": "none"}]
Change = Callable[[dict[str, Any]], None]


def content(first: int, count: int) -> dict[str, Any]:
    """`count` images with two boxes each, of both classes."""
    images = [
        {"id": first + i, "file_name": f"{first + i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(count)
    ]
    boxes = []
    for image in images:
        i = image["id"]
        boxes.append(entry(2 * i, i, [50 + i % 7, 30, 30, 28], 1, area=840, iscrowd=0))
        boxes.append(entry(2 * i + 1, i, [10, 40 - i % 5, 21, 19], 2, area=399, iscrowd=0))
    return {"images": images, "annotations": boxes, "categories": json.loads(json.dumps(CLASSES))}


def write(root: Path, change: Change | None = None, train: int = 4, val: int = 2) -> Path:
    """Both splits, changed alike."""
    for split, first, count in (("train", 1, train), ("val", 101, val)):
        made = content(first, count)
        for image in made["images"]:
            picture(root / "images" / image["file_name"], WIDTH, HEIGHT, image["id"])
        if change is not None:
            change(made)
        file = root / f"annotations/instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(made))
    return root


def read(root: Path, **settings: Any) -> DetectionData:
    data = DetectionData(root, batch_size=1, seed=0, workers=0, **settings)
    data.setup("fit")
    return data


def numbers(data: DetectionData) -> tuple[int, int]:
    """Boxes that train, and boxes that are evaluated."""
    train = data.train_dataset
    return int(train.annotations.boxes_per_image()[train.images].sum()), len(data.val_ground_truth()["annotations"])


def every(section: str, **values: Any) -> Change:
    def change(made: dict[str, Any]) -> None:
        for item in made[section]:
            for key, value in values.items():
                item[key] = value(item) if callable(value) else value

    return change


def without(section: str, *keys: str) -> Change:
    def change(made: dict[str, Any]) -> None:
        for item in made[section]:
            for key in keys:
                item.pop(key, None)

    return change


def polygons(made: dict[str, Any]) -> None:
    for item in made["annotations"]:
        x, y, w, h = item.pop("bbox")
        item["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def corners(made: dict[str, Any]) -> None:
    for item in made["annotations"]:
        x, y, w, h = item["bbox"]
        item["bbox"] = [x, y, x + w, y + h]


def normalised(made: dict[str, Any]) -> None:
    for item in made["annotations"]:
        x, y, w, h = item["bbox"]
        item["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]


UNDERSTOOD: dict[str, tuple[Change, str]] = {
    "annotation_ids_all_zero": (every("annotations", id=0), "annotation ids repeat an earlier one, e.g. 0"),
    "annotation_ids_missing": (without("annotations", "id"), "have no id"),
    "via_text_image_ids": (every("annotations", image_id=lambda a: str(a["image_id"])), "text .* image_id '1'"),
    "pylabel_text_category_ids": (
        every("annotations", category_id=lambda a: str(a["category_id"]), iscrowd=0.0, segmentation=None),
        "text .* category_id '1'",
    ),
    "iscrowd_null": (every("annotations", iscrowd=None), ""),
    "polygons_without_bbox": (polygons, "8 annotations have no bbox"),
    "via_size_minus_one": (every("images", width=-1, height=-1), "4 x missing_size -> measure.*width -1"),
    "no_sizes": (without("images", "width", "height"), "4 x missing_size -> measure"),
    "windows_backslashes": (every("images", file_name=lambda i: f"images\\{i['file_name']}"), "spelled otherwise"),
    "area_text": (every("annotations", area=lambda a: str(a["area"])), ""),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_what_is_meant_is_read(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    change, line = UNDERSTOOD[case]
    data = read(write(tmp_path, change))
    assert numbers(data) == (8, 4)
    said = [record.getMessage() for record in caplog.records if "instances_train" in record.getMessage()]
    assert len([text for text in said if "usable boxes" not in text]) == bool(line)  # one line, however many entries
    assert re.search(line, " ".join(said))
    metric = CocoMetric(tmp_path / "annotations/instances_val.json", data.category_ids)
    assert metric.evaluator.ground_truth.annotations == GroundTruth.load(data.val_dataset.annotations).annotations


def test_ids_that_restart_in_each_image_lose_no_box(tmp_path: Path) -> None:
    data = read(write(tmp_path, every("annotations", id=lambda a: a["id"] % 2 + 1), train=20))
    assert numbers(data) == (40, 4)


def test_only_an_entry_that_nothing_tells_apart_is_a_duplicate(tmp_path: Path) -> None:
    def repeat(made: dict[str, Any]) -> None:
        every("annotations", id=0)(made)
        made["annotations"].append(dict(made["annotations"][0]))
        made["annotations"].append({**made["annotations"][0], "category_id": 2})

    data = read(write(tmp_path, repeat, train=20))
    assert numbers(data) == (41, 5)
    assert data.train_dataset.annotations.log.counts == {"duplicate_annotation": 1}


def test_corners_are_refused_and_read_by_the_setting_that_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, corners, train=20)
    for strict in (False, True):
        with pytest.raises(
            DataError, match=r"40 of 40 boxes leave.*probably corners.*box_format=xyxy.*implausible=keep"
        ):
            read(root, policy=DefectPolicy(strict=strict))
    assert numbers(read(root, policy=DefectPolicy(implausible="keep"))) == (40, 4)
    data = read(root, policy=DefectPolicy(box_format="xyxy"))
    shutil.rmtree(root)
    assert [a["bbox"] for a in data.val_ground_truth()["annotations"]] == [
        a["bbox"] for a in read(write(root)).val_ground_truth()["annotations"]
    ]


def test_boxes_a_pixel_or_two_over_the_edge_train(tmp_path: Path) -> None:
    def shift(made: dict[str, Any]) -> None:
        for item in made["annotations"]:
            item["bbox"] = [WIDTH - 28, 3, 30, 40]

    assert numbers(read(write(tmp_path, shift))) == (8, 4)


def test_normalised_boxes_are_refused_and_read_by_the_setting_that_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, normalised)
    with pytest.raises(DataError, match=r"8 of 8 boxes are smaller than two pixels.*normalised.*box_format=xywhn"):
        read(root)
    data = read(root, policy=DefectPolicy(box_format="xywhn"))
    assert numbers(data) == (8, 4)
    assert data.val_ground_truth()["annotations"][1]["bbox"] == pytest.approx([10, 39, 21, 19], abs=1e-9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("annotations", "bbox"), r"8 of 8 boxes.*malformed_annotation.*has no bbox.*check-data"),
        (every("annotations", image_id="one"), r"8 of 8.*image_id is 'one'"),
        (every("annotations", category_id=9), r"8 of 8.*unknown_category \(8\).*category_id 9"),
        (every("annotations", iscrowd="maybe"), r"8 of 8.*iscrowd is 'maybe'"),
        (every("annotations", category_id=lambda a: "square"), r"8 of 8.*category_id is 'square'.*Correct the file$"),
    ],
)
def test_a_file_of_which_everything_is_dropped_is_refused_with_counted_reasons(
    change: Change, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=reason):
        read(write(tmp_path, change))
    with pytest.raises(DataError, match=r"no image with a usable box.*8 x "):
        read(tmp_path, policy=DefectPolicy(max_dropped=1.0))


def test_crowd_regions_alone_are_named_as_the_reason(tmp_path: Path) -> None:
    root = write(tmp_path, every("annotations", iscrowd="True"))
    with pytest.raises(DataError, match=r"nothing to train on\. Left out: 8 x crowd regions"):
        read(root)


def test_a_share_leaves_an_image_on_either_side(tmp_path: Path) -> None:
    root = write(tmp_path)
    for share, held in ((0.01, 1), (0.99, 3)):
        data = read(root, val_share=share)
        assert (len(data.val_dataset), len(data.train_dataset)) == (held, 4 - held)
    with pytest.raises(DataError, match=r"data\.val_share=0\.5: must be 0 or null for a single image"):
        read(write(tmp_path / "one", train=1), val_share=0.5)


def test_a_size_that_no_file_tells_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, without("images", "width"))
    (root / "images/2.jpg").unlink()
    with pytest.raises(
        DataError, match=r"malformed_image 1(?s:.*)image 2: has no width and height, and .*'2.jpg' is not in"
    ):
        read(root)
    assert numbers(read(root, policy=DefectPolicy(malformed_image="drop"))) == (6, 4)


def test_percent_encoded_names_are_found(tmp_path: Path) -> None:
    root = write(tmp_path, every("images", file_name=lambda i: f"my%20{i['file_name']}"))
    for file in list((root / "images").iterdir()):
        file.rename(file.with_name(f"my {file.name}"))
    assert numbers(read(root)) == (8, 4)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("annotations/instances_Train.json", "annotations/instances_Validation.json"),
        ("annotations/train.json", "annotations/val.json"),
        ("train.json", "valid.json"),
        ("train/labels.json", "validation/labels.json"),
        ("annotations/my_training_set.json", "annotations/my_val_set.json"),
        ("ANNOTATIONS/INSTANCES_TRAIN2017.JSON", "ANNOTATIONS/INSTANCES_VAL2017.JSON"),
    ],
)
def test_layouts_of_other_tools_are_found(train: str, val: str, tmp_path: Path) -> None:
    assert numbers(read(renamed(write(tmp_path), train, val))) == (8, 4)


def renamed(root: Path, train: str, val: str) -> Path:
    for split, name in (("train", train), ("val", val)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"annotations/instances_{split}.json").rename(root / name)
    return root


def test_what_is_there_is_listed_when_nothing_is_found(tmp_path: Path) -> None:
    root = renamed(write(tmp_path), "annotations/part_a.json", "annotations/part_b.json")
    with pytest.raises(
        DataError, match=r"JSON files that are there: annotations/part_a\.json, annotations/part_b\.json"
    ):
        read(root)
    settings = {"train_annotations": "annotations/part_a.json", "val_annotations": "annotations/part_b.json"}
    assert numbers(read(root, **settings)) == (8, 4)
    shutil.rmtree(root / "annotations")
    with pytest.raises(DataError, match=r"There is no JSON file, but 6 JPG"):
        read(root)


def test_without_a_validation_split_a_share_is_held_back_or_none(tmp_path: Path) -> None:
    root = write(tmp_path, train=10)
    (root / "annotations/instances_val.json").unlink()
    with pytest.raises(DataError, match=r"no annotation file for val.*data\.val_share=0\.1.*data\.val_share=0"):
        read(root)
    data = read(root, val_share=0.2)
    held = set(data.val_dataset.annotations.file_names())
    assert (len(data.train_dataset), len(held), numbers(data)) == (8, 2, (16, 4))
    assert not held & {data.train_dataset.file_name(int(i)) for i in data.train_dataset.images}
    (root / "annotations/instances_train.json").rename(root / "result.json")  # Label Studio's: one file, no split
    again = DetectionData(root, batch_size=2, seed=7, workers=0, val_share=0.2)
    again.setup("fit")
    assert set(again.val_dataset.annotations.file_names()) == held  # by name, whatever the seed
    alone = read(root, val_share=0)
    assert (len(alone.train_dataset), alone.has_validation, alone.val_dataloader()) == (10, False, [])
    with pytest.raises(DataError, match=r"data\.val_share=0: there are no validation images"):
        alone.setup("validate")


def test_roboflows_name_of_the_group_is_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def group(made: dict[str, Any]) -> None:
        every("categories", supercategory="shapes")(made)
        made["categories"].insert(0, {"id": 0, "name": "shapes", "supercategory": "none"})

    data = read(write(tmp_path, group))
    assert (data.class_names, data.category_ids, numbers(data)) == (["square", "disc"], [1, 2], (8, 4))
    assert sum("category 0 'shapes' is left out" in record.getMessage() for record in caplog.records) == 1
    file = tmp_path / "annotations/instances_val.json"
    made = json.loads(file.read_text())
    made["annotations"][0]["category_id"] = 0  # a box of it in one split: it is a class
    file.write_text(json.dumps(made))
    assert read(tmp_path).category_ids == [0, 1, 2]


def test_a_subset_of_the_classes_is_used(tmp_path: Path) -> None:
    root = write(tmp_path)
    data = read(root, classes=["disc"])
    assert (data.class_names, data.category_ids, numbers(data)) == (["disc"], [2], (4, 2))
    assert data.train_dataset[0][1]["labels"].tolist() == [0]  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"data\.classes=\['dics'\].*square, disc.*Did you mean 'disc'"):
        read(root, classes=["dics"])


def test_what_a_validation_set_cannot_tell_is_said_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write(tmp_path)
    train, val = (root / f"annotations/instances_{split}.json" for split in ("train", "val"))
    val.write_text(json.dumps({**json.loads(val.read_text()), "annotations": []}))
    data = read(root)
    assert not data.val_dataset.annotations.has_boxes
    shutil.copy(train, val)
    read(root)
    made = json.loads(train.read_text())
    made["annotations"] = [entry(n, 1, [n % 10, n // 10, 20, 20], 1) for n in range(150)]
    val.write_text(json.dumps(made))
    read(root)
    said = " ".join(record.getMessage() for record in caplog.records)
    for words in (
        "has no box to be found: AP cannot be measured",
        "all of 4 validation images are trained on too",
        "1 images have more than 100 objects (up to 150)",
    ):
        assert words in said


def test_other_endings_of_jpegs_are_read_and_other_kinds_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ifpn.data.dataset.SUFFIXES", tuple(s for s in SUFFIXES if s not in (".heic", ".heif", ".hif")))
    for name in ("a.jpg", "b.jfif", "c.JPE", "d.mpo"):
        picture(tmp_path / "e.jpg")
        (tmp_path / "e.jpg").rename(tmp_path / name)
    for name in ("IMG_1.HEIC", "IMG_2.heic", "notes.txt", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    folder = ImageFolder(tmp_path)
    assert [folder[i][0].name for i in range(4)] == ["a.jpg", "b.jfif", "c.JPE", "d.mpo"]
    assert "2 HEIC, 1 TXT" in folder.left_out_note
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"has no image files, only 1 HEIC"):
        ImageFolder(only)


def test_links_that_lead_round_in_a_circle_lose_no_other_picture(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "one.jpg").symlink_to("two.jpg")
    (tmp_path / "two.jpg").symlink_to("one.jpg")
    (tmp_path / "sub").symlink_to(tmp_path)
    folder = ImageFolder(tmp_path)
    readable = []
    for index in range(len(folder)):
        try:
            readable.append(folder[index][0].name)
        except BadImage:
            continue
    assert readable == ["a.jpg"]
