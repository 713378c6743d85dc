"""One file, however it is spelled, gives the same boxes to training, evaluation, the metric and the check."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask

from ifpn.data import DetectionData
from ifpn.data.check import check_split
from ifpn.evaluation import CocoEvaluator, GroundTruth
from tests.data.cases import CATEGORIES, entry, picture

Content = dict[str, Any]
Boxes = list[tuple[int, int, list[float]]]
NAMES = ("photo one.jpg", "b.jpg", "Ångström.jpg")
SIDES = (64, 48)
BOXES: tuple[tuple[int, int, list[int]], ...] = (
    (1, 3, [3, 4, 20, 30]),
    (1, 17, [30, 10, 25, 25]),
    (2, 3, [0, 0, 64, 48]),
    (2, 3, [10, 20, 12, 9]),
    (3, 17, [40, 30, 20, 15]),
)


def sound() -> Content:
    images = [{"id": i, "file_name": n, "width": 64, "height": 48} for i, n in enumerate(NAMES, start=1)]
    boxes = [entry(n, i, list(b), c, iscrowd=0, area=b[2] * b[3]) for n, (i, c, b) in enumerate(BOXES, start=1)]
    return {"images": images, "annotations": boxes, "categories": copy.deepcopy(CATEGORIES)}


def each(section: str, **values: Callable[[dict[str, Any], int], Any]) -> Callable[[Content], None]:
    """Set keys of every entry of a section; the value ... takes the key away."""

    def apply(content: Content) -> None:
        for number, item in enumerate(content[section]):
            for key, value in values.items():
                new = value(item, number)
                if new is ...:
                    item.pop(key, None)
                else:
                    item[key] = new

    return apply


def outline(item: dict[str, Any]) -> list[float]:
    x, y, w, h = item["bbox"]
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def run_lengths(item: dict[str, Any], compressed: bool) -> dict[str, Any]:
    x, y, w, h = item["bbox"]
    pixels = np.zeros((48, 64), np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    if compressed:
        found = mask.encode(pixels)
        return {"size": found["size"], "counts": found["counts"].decode()}
    flat = pixels.flatten(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=np.int8(0), append=flat[-1:]))  # none of an empty mask
    return {"size": [48, 64], "counts": np.diff([0, *edges, len(flat)]).tolist()}


def masked(how: Callable[[dict[str, Any]], Any]) -> Callable[[Content], None]:
    """Give the outline of every box, and no box."""

    def apply(content: Content) -> None:
        for item in content["annotations"]:
            item["segmentation"] = how(item)
            del item["bbox"]

    return apply


def add_defects(content: Content) -> None:
    content["annotations"] += [entry(70, 1, [5, 5, float("nan"), 9]), entry(71, 999, [5, 5, 9, 9])]


ANNOTATIONS: dict[str, Callable[[Content], None]] = {
    "ids: missing": each("annotations", id=lambda a, n: ...),
    "ids: all zero": each("annotations", id=lambda a, n: 0),
    "ids: by image": each("annotations", id=lambda a, n: n % 2),
    "ids: null": each("annotations", id=lambda a, n: None),
    "ids: text": each("annotations", id=lambda a, n: f"a{n}"),
    "image_id: text": each("annotations", image_id=lambda a, n: str(a["image_id"])),
    "image_id: floats": each("annotations", image_id=lambda a, n: float(a["image_id"])),
    "category_id: text": each("annotations", category_id=lambda a, n: f" {a['category_id']} "),
    "images: text ids": each("images", id=lambda a, n: f"0{a['id']}"),
    "categories: text ids": each("categories", id=lambda a, n: str(a["id"])),
    "crowd: null": each("annotations", iscrowd=lambda a, n: None),
    "crowd: absent": each("annotations", iscrowd=lambda a, n: ...),
    "crowd: float": each("annotations", iscrowd=lambda a, n: 0.0),
    "crowd: text": each("annotations", iscrowd=lambda a, n: "0"),
    "crowd: text false": each("annotations", iscrowd=lambda a, n: "False"),
    "crowd: false": each("annotations", iscrowd=lambda a, n: False),
    "area: absent": each("annotations", area=lambda a, n: ...),
    "area: text": each("annotations", area=lambda a, n: str(a.get("area", "x"))),
    "area: nan": each("annotations", area=lambda a, n: float("nan")),
    "area: negative": each("annotations", area=lambda a, n: -1),
    "sizes: absent": each("images", width=lambda a, n: ..., height=lambda a, n: ...),
    "sizes: -1": each("images", width=lambda a, n: -1, height=lambda a, n: -1),
    "sizes: one null": each("images", height=lambda a, n: None if n else 48),
    "sizes: text": each("images", width=lambda a, n: "64", height=lambda a, n: "48.0"),
    "bbox: floats": each("annotations", bbox=lambda a, n: [*map(float, a["bbox"])]),
    "bbox: text": each("annotations", bbox=lambda a, n: [*map(str, a["bbox"])]),
    "bbox: nested": each("annotations", bbox=lambda a, n: [a["bbox"]]),
    "bbox: by name": each("annotations", bbox=lambda a, n: dict(zip("xywh", a["bbox"], strict=True))),
    "bbox: polygons": masked(lambda a: [outline(a)]),
    "bbox: points": masked(lambda a: [np.reshape(outline(a), (-1, 2)).tolist()]),
    "bbox: masks": masked(lambda a: run_lengths(a, compressed=False)),
    "bbox: compressed masks": masked(lambda a: run_lengths(a, compressed=True)),
    "bbox: null segmentation": each("annotations", segmentation=lambda a, n: None),
    "twice: repeated": lambda content: content["annotations"].extend(copy.deepcopy(content["annotations"][:2])),
    "twice: with defects": add_defects,
}
FILES: dict[str, Callable[[str], str]] = {
    "plain": lambda name: name,
    "backslashes": lambda name: f"images\\{name}",
    "folder": lambda name: f"some/images/{name}",
    "dot": lambda name: f"./{name}",
    "percent": quote,
    "address": lambda name: f"https://example.org/a/{quote(name)}?sig=1",
    "capitals": str.upper,
    "another format": lambda name: name.replace(".jpg", ".png"),
    "no ending": lambda name: name.removesuffix(".jpg"),
    "label studio": lambda name: f"images/0a1b2c3d-{name}",
}
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "byte order mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-be without mark": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "gzip": lambda text: gzip.compress(text.encode()),
}
LAYOUTS = {  # annotation file, image folder, and the two names of the splits
    "coco": ("annotations/instances_{}2017.json", "{}2017", ("train", "val")),
    "cvat": ("annotations/instances_{}.json", "images/{}", ("Train", "Validation")),
    "roboflow": ("{}/_annotations.coco.json", "{}", ("train", "valid")),
    "mmdet": ("annotations/{}.json", "{}", ("train", "val")),
    "fiftyone": ("{}/labels.json", "{}/data", ("train", "validation")),
    "beside": ("{}.json", "{}", ("TRAIN", "VAL")),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(NAMES):
        picture(folder / name, *SIDES, seed=number)
    return folder


def write(
    root: Path, content: Content, pictures: Path, layout: str = "coco", encoding: str = "utf-8"
) -> tuple[Path, ...]:
    """Write the same content as both splits; returns the two annotation files."""
    annotations, images, splits = LAYOUTS[layout]
    files = tuple(root / annotations.format(split) for split in splits)
    for file, split in zip(files, splits, strict=True):
        shutil.copytree(pictures, root / images.format(split))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(ENCODINGS[encoding](json.dumps(content, ensure_ascii=False)))
    return files


def seen(root: Path, val_file: Path) -> dict[str, Boxes]:
    """(image id, category id, x y w h) of every box that each reader sees."""
    data = DetectionData(root, batch_size=1, seed=0, workers=0)
    data.setup("fit")
    trained: Boxes = []
    for index in range(len(data.train_dataset)):
        _, target = data.val_dataset[index]  # the same content, not augmented
        i = int(data.train_dataset.images[index])
        xyxy, label = data.train_dataset.annotations.boxes(i)
        assert np.array_equal(xyxy, target["boxes"])  # type: ignore[arg-type]
        for box, k in zip(xyxy.tolist(), label, strict=True):
            official = int(data.train_dataset.annotations.image_ids[i]), data.category_ids[k]
            trained.append((*official, [box[0], box[1], box[2] - box[0], box[3] - box[1]]))

    def of(truth: GroundTruth) -> Boxes:
        return sorted((a["image_id"], a["category_id"], a["bbox"]) for a in truth.annotations)

    report, checked = check_split(root, "val")
    assert report.boxes == len(of(GroundTruth.load(checked.annotations)))
    return {
        "training": sorted(trained),
        "evaluation": of(CocoEvaluator(data.val_dataset.annotations, data.category_ids).ground_truth),
        "metric": of(CocoEvaluator(val_file, data.category_ids).ground_truth),
        "check": of(GroundTruth.load(checked.annotations)),
    }


EXPECTED: Boxes = sorted((i, c, [float(v) for v in b]) for i, c, b in BOXES)


@pytest.mark.parametrize("change", ANNOTATIONS)
def test_every_spelling_gives_the_same_boxes(change: str, tmp_path: Path, pictures: Path) -> None:
    content = sound()
    ANNOTATIONS[change](content)
    assert seen(tmp_path, write(tmp_path, content, pictures)[1]) == dict.fromkeys(
        ("training", "evaluation", "metric", "check"), EXPECTED
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    changes=st.lists(st.sampled_from(sorted(ANNOTATIONS)), max_size=6, unique_by=lambda name: name.split(":")[0]),
    spelling=st.sampled_from(sorted(FILES)),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    layout=st.sampled_from(sorted(LAYOUTS)),
    random=st.randoms(use_true_random=False),
)
def test_shuffled_converted_and_damaged_files_give_the_same_boxes(
    tmp_path_factory: pytest.TempPathFactory,
    pictures: Path,
    changes: list[str],
    spelling: str,
    encoding: str,
    layout: str,
    random: Any,
) -> None:
    content = sound()
    for change in sorted(changes):  # repeated ones last
        ANNOTATIONS[change](content)
    each("images", file_name=lambda a, n: FILES[spelling](a["file_name"]))(content)
    for section in content.values():
        random.shuffle(section)
    sections = list(content.items())
    random.shuffle(sections)
    root = tmp_path_factory.mktemp("set")
    files = write(root, dict(sections), pictures, layout, encoding)
    assert seen(root, files[1]) == dict.fromkeys(("training", "evaluation", "metric", "check"), EXPECTED)
