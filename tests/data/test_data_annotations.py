"""Every defect is handled by its named policy and counted; nothing else ever escapes from an annotation file."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ifpn.data import DataError, DefectPolicy, load_annotations
from ifpn.data.coco.annotations import CocoAnnotations
from ifpn.data.coco.defects import KINDS
from tests.data.cases import CATEGORIES, document, entry

# files for each of four properties, 2,000 in all; more with IFPN_DEFECT_EXAMPLES=2000
EXAMPLES = int(os.environ.get("IFPN_DEFECT_EXAMPLES", "500"))
fuzzing = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

WIDTH, HEIGHT = 100, 80
DROP_ALL = DefectPolicy(
    malformed_image="drop",
    duplicate_image="drop",
    unsafe_path="drop",
    missing_size="drop",
    max_dropped=1.0,
    implausible="keep",
)


def images(count: int = 3) -> list[dict[str, Any]]:
    return [{"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(1, count + 1)]


def load(folder: Path, content: Any, policy: DefectPolicy = DROP_ALL, **more: Any) -> CocoAnnotations:
    path = folder / "instances.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return load_annotations(path, policy=policy, **more)


def test_ids_are_contiguous_inside_and_official_outside(tmp_path: Path) -> None:
    categories = [{"id": i, "name": n} for i, n in ((90, "z"), (1, "a"), (44, "m"))]
    boxes = [entry(7, 2, [1, 2, 30, 40], 90), entry(5, 1, [0, 0, 10, 10], 1), entry(6, 2, [5, 5, 20, 20], 44)]
    found = load(tmp_path, {"categories": categories, "annotations": boxes, "images": images(2)})
    assert (found.categories.ids, found.categories.names) == ((1, 44, 90), ("a", "m", "z"))
    xyxy, label = found.boxes(1)
    assert label.tolist() == [2, 1]
    assert xyxy.tolist() == [[1, 2, 31, 42], [5, 5, 25, 25]]
    truth = found.to_coco()
    assert [a["category_id"] for a in truth["annotations"]] == [1, 90, 44]
    assert [a["bbox"] for a in truth["annotations"]] == [[0, 0, 10, 10], [1, 2, 30, 40], [5, 5, 20, 20]]
    assert found.file_name(1) == "2.jpg"


def test_crowd_is_kept_for_evaluation_only(tmp_path: Path) -> None:
    boxes = [entry(1, 1, [0, 0, 10, 10], iscrowd=1, area=7.5), entry(2, 1, [5, 5, 10, 10], iscrowd=0)]
    found = load(tmp_path, document(images(2), boxes))
    assert found.boxes(0)[0].tolist() == [[5, 5, 15, 15]]
    assert found.boxes_per_image().tolist() == [1, 0]
    truth = found.to_coco()["annotations"]
    assert [(a["iscrowd"], a["area"]) for a in truth] == [(1, 7.5), (0, 100.0)]


def test_boxes_are_clipped_and_truth_is_not(tmp_path: Path) -> None:
    boxes = [entry(1, 1, [-0.5, 10, 30, 20]), entry(2, 1, [90, 70, 30, 30])]
    found = load(tmp_path, document(images(1), boxes))
    assert found.boxes(0)[0].tolist() == [[0, 10, 29.5, 30], [90, 70, 100, 80]]
    assert found.log.counts == {"partly_outside": 1}  # half a pixel is rounding
    assert found.to_coco()["annotations"][1]["bbox"] == [90, 70, 30, 30]
    dropped = load(tmp_path, document(images(1), boxes), DefectPolicy(partly_outside="drop"))
    assert len(dropped.boxes(0)[0]) == 1


# one annotation with exactly one defect of each kind; `n` is a fresh id
DEFECTS: dict[str, list[Any]] = {
    "partly_outside": [lambda n: entry(n, 1, [-20, 5, 40, n]), lambda n: entry(n, 2, [60, 60, 30, 1e6 + n])],
    "outside": [lambda n: entry(n, 1, [200, 5, 10, n]), lambda n: entry(n, 1, [-30 - n, -30, 20, 20])],
    "zero_area": [lambda n: entry(n, 1, [5, 5, 0, n]), lambda n: entry(n, 3, [5, 5, n, 0.0])],
    "negative_size": [lambda n: entry(n, 1, [50, 50, -10, n]), lambda n: entry(n, 2, [9, 9, n, -1e-9])],
    "too_small": [lambda n: entry(n, 1, [5, 5, 1, n]), lambda n: entry(n, 1, [99.5, 5, 9, n])],
    "not_finite": [
        lambda n: entry(n, 1, [float("nan"), 1, 2, 3]),
        lambda n: entry(n, 1, [1, 1, float("inf"), 3]),
        lambda n: entry(n, 1, [1, float("-inf"), 5, 3]),
    ],
    "malformed_box": [
        lambda n: entry(n, 1, [1, 2, 3]),
        lambda n: entry(n, 1, [1, 2, 3, 4, 5]),
        lambda n: entry(n, 1, None),
        lambda n: entry(n, 1, "1234"),
        lambda n: entry(n, 1, ["one", 2, 3, 4]),
        lambda n: entry(n, 1, [1, 2, [3], 4]),
        lambda n: entry(n, 1, None, segmentation=[[1, 2, 3]]),
        lambda n: entry(n, 1, [1, True, 3, 4]),
        lambda n: entry(n, 1, {"a": 1, "b": 2, "c": 3, "d": 4}),
        lambda n: entry(n, 1, [10**400, 2, 3, 4]),
        lambda n: entry(n, 1, []),
    ],
    "malformed_annotation": [
        lambda n: {"id": n, "image_id": 1, "category_id": 3},
        lambda n: {"id": n, "category_id": 3, "bbox": [1, 2, 3, 4]},
        lambda n: entry(n, "one", [1, 2, 3, 4]),  # type: ignore[arg-type]
        lambda n: entry(n, True, [1, 2, 3, 4]),
        lambda n: entry(n, 1.5, [1, 2, 3, 4]),  # type: ignore[arg-type]
        lambda n: entry(n, 2**70, [1, 2, 3, 4]),
        lambda n: entry(n, 1, [1, 2, 30, 40], iscrowd="no"),
        lambda n: entry(n, 1, [1, 2, 30, 40], iscrowd=[]),
        lambda n: entry(n, 1, [1, 2, 30, 40], category=None),
        lambda n: [n, 1, 3],
        lambda n: None,
    ],
    "unknown_image": [lambda n: entry(n, 999, [1, 2, 30, 40]), lambda n: entry(n, -1, [1, 2, 30, n])],
    "unknown_category": [lambda n: entry(n, 1, [1, 2, 30, 40], 4), lambda n: entry(n, 1, [1, 2, 30, 40], -7)],
    "duplicate_annotation": [
        lambda n: entry(1, 1, [1.5, 2, 30, 40]),
        lambda n: entry("1", 1, [1.5, 2.0, 30, 40], area=1200),
    ],
}
IMAGE_DEFECTS: dict[str, list[Any]] = {
    "malformed_image": [
        lambda n: {"id": n, "width": 5, "height": 5},
        lambda n: {"id": n, "file_name": 3, "width": 5, "height": 5},
        lambda n: {"id": f"a{n}", "file_name": "a.jpg", "width": 5, "height": 5},
        lambda n: {"id": True, "file_name": "a.jpg", "width": 5, "height": 5},
        lambda n: {"file_name": "a.jpg", "width": 5, "height": 5},
        lambda n: "a.jpg",
    ],
    "missing_size": [
        lambda n: {"id": n, "file_name": "a.jpg", "width": 0, "height": 5},
        lambda n: {"id": n, "file_name": "a.jpg", "width": 5, "height": "five"},
        lambda n: {"id": n, "file_name": "a.jpg", "width": 5, "height": 5.5},
        lambda n: {"id": n, "file_name": "a.jpg", "width": None, "height": True},
        lambda n: {"id": n, "file_name": "a.jpg", "width": -1, "height": -1},
        lambda n: {"id": n, "file_name": "a.jpg"},
    ],
    "duplicate_image": [lambda n: {"id": 1, "file_name": "other.jpg", "width": 5, "height": 5}],
    "unsafe_path": [lambda n: {"id": n, "file_name": "../a.jpg", "width": 5, "height": 5}],
}
# what an evaluation can still use, as COCO's own does
EVALUABLE = ("partly_outside", "outside", "zero_area", "too_small")


def test_every_kind_has_a_case() -> None:
    assert set(DEFECTS) | set(IMAGE_DEFECTS) == set(KINDS)


@st.composite
def defective(draw: st.DrawFn) -> tuple[dict[str, Any], Counter[str], int, int]:
    """A file, its defects by kind, how many boxes stay for training, and how many for evaluation."""
    all_kinds = {**DEFECTS, **IMAGE_DEFECTS}
    chosen = draw(st.lists(st.sampled_from([(k, i) for k in all_kinds for i in range(len(all_kinds[k]))]), max_size=14))
    good = [entry(1, 1, [1.5, 2, 30, 40]), entry(2, 2, [0, 0, WIDTH, HEIGHT], 17), entry(3, 2, [1, 1, 9, 9], iscrowd=1)]
    annotations: list[Any] = list(good)
    entries: list[Any] = images()
    trained, evaluated = 2, 3
    for number, (kind, which) in enumerate(chosen, start=100):
        bad = all_kinds[kind][which](number)
        if kind in DEFECTS:
            annotations.append(bad)
            trained += kind == "partly_outside"
            evaluated += kind in EVALUABLE
        else:
            entries.append(bad)
            if isinstance(bad, dict) and bad.get("id") == number:  # boxes of a dropped image go with it, uncounted
                annotations.append(entry(10_000 + number, number, [0, 0, 4, 4]))
    first = draw(st.permutations(annotations[3:]))
    sections = [("images", entries), ("annotations", [*good, *first]), ("categories", CATEGORIES), ("info", {"x": [1]})]
    content = dict(draw(st.permutations(sections)))
    return content, Counter(kind for kind, _ in chosen), trained, evaluated


@pytest.mark.slow
@fuzzing
@given(case=defective())
def test_defects_are_dropped_and_counted(tmp_path: Path, case: tuple) -> None:
    content, expected, trained, evaluated = case
    found = load(tmp_path, content)
    del found.log.counts["implausible"]  # of a whole file
    assert found.log.counts == expected
    assert Counter(defect.kind for defect in found.log.defects if defect.kind != "implausible") == expected
    assert int(found.usable.sum()) == trained
    assert len(found.to_coco()["annotations"]) == evaluated
    assert len(found) == 3
    boxes = np.concatenate([found.boxes(i)[0] for i in range(3)])
    assert np.isfinite(boxes).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) > 1).all()
    assert (boxes >= 0).all()
    assert (boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()


@pytest.mark.slow
@fuzzing
@given(case=defective())
def test_strict_refuses_and_lists_what_it_found(tmp_path: Path, case: tuple) -> None:
    content, expected, _, _ = case
    if not expected:
        load(tmp_path, content, DefectPolicy(strict=True))
        return
    with pytest.raises(DataError) as caught:
        load(tmp_path, content, DefectPolicy(strict=True))
    text = str(caught.value)
    assert "data.policy.strict=false" in text
    assert all(f"{kind} {count}" in text for kind, count in expected.items())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_can_be_refused_by_its_own_name(tmp_path: Path, kind: str) -> None:
    bad = {**DEFECTS, **IMAGE_DEFECTS}[kind][0](77)
    in_boxes = kind in DEFECTS
    content = document(
        images() + ([] if in_boxes else [bad]), [entry(1, 1, [1.5, 2, 30, 40]), *([bad] if in_boxes else [])]
    )
    with pytest.raises(
        DataError, match=rf"instances\.json: refused because of {kind} 1(?s:.*)data\.policy\.{kind}=drop"
    ):
        load(tmp_path, content, DefectPolicy(**{kind: "refuse"}))
    with pytest.raises(ValueError, match=rf"{kind}=ignore: must be .*drop or refuse"):
        DefectPolicy(**{kind: "ignore"})


def test_too_many_dropped_boxes_are_refused(tmp_path: Path) -> None:
    corners = [entry(n, 1, [60, 50, 55, 45]) for n in range(40)]
    turned = [entry(100 + n, 1, [60, 50, -5, 20]) for n in range(15)]
    with pytest.raises(DataError, match=r"15 of 55 boxes would be dropped, mostly negative_size.*max_dropped"):
        load(tmp_path, document(images(), corners + turned), DefectPolicy())
    lenient = DefectPolicy(max_dropped=0.3, implausible="keep")
    assert load(tmp_path, document(images(), corners + turned), lenient).usable.sum() == 40
    with pytest.raises(ValueError, match=r"max_dropped=1\.5"):
        DefectPolicy(max_dropped=1.5)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.dictionaries(
    st.sampled_from(
        ["id", "image_id", "category_id", "bbox", "iscrowd", "area", "file_name", "width", "height", "name"]
    ),
    JSON | st.integers(0, 4) | st.lists(st.floats(), min_size=4, max_size=4),
)


@pytest.mark.slow
@fuzzing
@given(
    content=st.fixed_dictionaries(
        {},
        optional={
            "images": st.lists(ENTRY | JSON | st.sampled_from(images()), max_size=5) | JSON,
            "annotations": st.lists(ENTRY | JSON | st.just(entry(1, 1, [1, 1, 9, 9])), max_size=5) | JSON,
            "categories": st.lists(ENTRY | st.sampled_from(CATEGORIES), max_size=3) | JSON,
            "info": JSON,
        },
    )
    | JSON
)
def test_any_json_loads_or_is_refused(tmp_path: Path, content: Any) -> None:
    try:
        found = load(tmp_path, content)
    except DataError as error:
        text = str(error)
    else:
        text = str(found.path)
        found.to_coco()
    assert "instances.json" in text


@fuzzing
@given(data=st.data())
def test_any_damage_to_the_text_loads_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    text = bytearray(
        json.dumps(
            document(images(), [entry(1, 1, [1.5, 1, 9, 9])]), indent=data.draw(st.sampled_from([None, 1]))
        ).encode()
    )
    for _ in range(data.draw(st.integers(0, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(text)) | st.just(len(text)))
    try:
        load(tmp_path, bytes(text[:cut]))
    except DataError as error:
        refused = str(error)
    else:
        refused = "instances.json"
    assert "instances.json" in refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b"   \n", "is empty"),
        (b"[]", "must hold an object"),
        (b"{}", "no section images, categories, annotations"),
        (b'{"images": {}}', "'images' must be a list"),
        (b'{"images": [], "images": []}', "two sections named 'images'"),
        (b'{"images": [1, 2', "not valid JSON.*line 1 column"),
        (b'{"images": []} x', "Extra data"),
        (b"{\xff}", "not UTF-8"),
        (b"\xff\xfe{\x00\x00", "not UTF-16"),
        (b"PK\x03\x04...", "zip archive"),
        (b"\x1f\x8b\x08 broken", "cannot be read"),
        (b'{"images": [1, 2,], "annotations": []}', "Take away the comma"),
        (b'{"images": [{"id": 1,}]}', "Take away the comma"),
        (b'[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "list of predictions"),
        (b'{"version": "5", "shapes": [], "imagePath": "a.jpg"}', "labelme"),
        (b'{"info": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"info": ' + b"9" * 5_000 + b"}", "not valid JSON"),
        (b'{"images": [], "annotations": [], "categories": []}', "no categories"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no usable images"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1}]}', "needs an id"),
        (b'{"images": [], "annotations": [], "categories": [{"id": "one", "name": "a"}]}', "needs an id"),
        (
            b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "two categories have the id 1",
        ),
    ],
)
def test_files_of_another_kind_are_explained(tmp_path: Path, text: bytes, words: str) -> None:
    with pytest.raises(DataError, match=f"instances.json.*{words}"):
        load(tmp_path, text)


def test_missing_files_and_byte_order_marks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_annotations(tmp_path / "none.json", policy=DefectPolicy())
    assert len(load(tmp_path, b"\xef\xbb\xbf" + json.dumps(document(images(), [])).encode())) == 3


def test_validation_may_not_have_classes_of_its_own(tmp_path: Path) -> None:
    training = load(tmp_path, document(images(), [entry(1, 1, [1, 1, 9, 9])])).categories
    fewer = {**document(images(), [entry(1, 1, [1, 1, 9, 9], 17)]), "categories": CATEGORIES[1:]}
    assert load(tmp_path, fewer, categories=training).boxes(0)[1].tolist() == [1]  # the training file's number
    for wrong in ({"id": 4, "name": "cow"}, {"id": 3, "name": "cow"}):
        with pytest.raises(DataError, match=r"does not agree with the training file"):
            load(tmp_path, {**document(images(), []), "categories": [wrong]}, categories=training)


def test_images_alone_are_enough_where_boxes_are_not_needed(tmp_path: Path) -> None:
    content = {"images": images(), "categories": CATEGORIES}
    with pytest.raises(DataError, match="no section annotations"):
        load(tmp_path, content)
    found = load(tmp_path, content, boxes_required=False)
    assert not found.has_boxes
    assert found.boxes(0)[0].shape == (0, 4)


def test_a_large_file_becomes_a_few_small_arrays(tmp_path: Path) -> None:
    entries = images(2000)
    boxes = [entry(n, n % 2000 + 1, [n % 50, 3.25, 20.5, 30], iscrowd=0, area=9.5) for n in range(15_000)]
    for number, box in enumerate(boxes):
        box["segmentation"] = [[float(number % 7)] * 20]
    found = load(tmp_path, document(entries, boxes))
    arrays = [v for v in (getattr(found, f.name) for f in fields(found)) if isinstance(v, np.ndarray)]
    assert all(array.dtype != object for array in arrays)
    # 16 + 32 bytes of corners, 8 each of id and area, 4 of label, 2 flags per box; 16 + names per image
    assert sum(array.nbytes for array in arrays) < 72 * 15_000 + 40 * 2000
    assert found.boxes_per_image().tolist() == [8] * 1000 + [7] * 1000
