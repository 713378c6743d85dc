"""A prediction file that is not what it seems is scored, and named in one line."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ifpn.evaluation import CocoEvaluator, read_predictions
from tests.evaluation.cases import random_case

SIDE = 480


def perfect(seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth, and detections equal to it."""
    truth, _ = random_case(seed, images=8, classes=3)
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": list(a["bbox"]), "score": 0.9}
        for a in truth["annotations"]
    ]
    return truth, found


def corners(found: list[dict[str, Any]]) -> None:
    for record in found:
        x, y, w, h = record["bbox"]
        record["bbox"] = [x, y, x + w, y + h]


def normalised(found: list[dict[str, Any]]) -> None:
    for record in found:
        record["bbox"] = [value / SIDE for value in record["bbox"]]


def changed(*order: int, factor: float = 1.0) -> Callable[[list[dict[str, Any]]], None]:
    def change(found: list[dict[str, Any]]) -> None:
        for record in found:
            record["bbox"] = [factor * record["bbox"][i] for i in order]

    return change


def centred(found: list[dict[str, Any]]) -> None:
    for record in found:
        x, y, w, h = record["bbox"]
        record["bbox"] = [x + w / 2, y + h / 2, w, h]


def thousandths(found: list[dict[str, Any]]) -> None:
    for record in found:
        record["bbox"] = [value / SIDE * 1000 for value in record["bbox"]]


def permuted(found: list[dict[str, Any]]) -> None:
    for record in found:
        record["category_id"] = {1: 4, 4: 7, 7: 1}[record["category_id"]]


def read(tmp_path: Path, truth: Any, content: Any, caplog: pytest.LogCaptureFixture) -> tuple[float, list[str]]:
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps(content), encoding="utf-8-sig")
    evaluator = CocoEvaluator(truth, [1, 4, 7])
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        evaluator.update_records(read_predictions(file, evaluator))
    return evaluator.compute().summary["AP"], [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (corners, "boxes leave their images.*probably corners"),
        (normalised, "smaller than two pixels.*look normalised"),
        (centred, "would if the numbers were centre x, y, width, height"),
        (changed(1, 0, 3, 2), "would if the numbers were y, x, height, width"),
        (changed(0, 1, 2, 3, factor=0.5), "pictures of half the size"),
        (thousandths, "boxes leave their images|thousandths of the picture"),
        (permuted, "have its class, .* would if the classes stood in another order .*'class 4' on 'class 1'"),
    ],
)
def test_a_doubtful_file_is_scored_and_named(
    change: Callable[[list[dict[str, Any]]], None], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth, found = perfect()
    change(found)
    ap, said = read(tmp_path, truth, found, caplog)
    assert ap < 0.5
    assert len(said) == 1
    assert re.search(words, said[0])


def test_good_poor_and_few_detections_are_not_doubted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth, found = perfect()
    assert read(tmp_path, truth, found, caplog) == (pytest.approx(1.0), [])
    for seed in range(6):
        truth, found = random_case(seed, images=8, classes=3)
        assert read(tmp_path, truth, found, caplog)[1] == []
    truth, found = perfect()
    one = {1: 1, 4: 1, 7: 1}  # a detector that knows one class only
    poor = [{**record, "category_id": one[record["category_id"]]} for record in found]
    assert read(tmp_path, truth, poor, caplog)[1] == []
    assert read(tmp_path, truth, [], caplog)[1] == []


def test_ids_that_the_file_itself_calls_otherwise_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth, found = perfect()
    own = {"annotations": found, "images": [{"id": 1, "file_name": "else.jpg"}]}
    own["categories"] = [{"id": 4, "name": "cow"}]
    _, said = read(tmp_path, truth, own, caplog)
    assert len(said) == 2
    assert "its categories call id 4 'cow', and the annotations 'class 4'" in said[0]
    assert "its images call id 1 'else.jpg', and the annotations '1.jpg'" in said[1]


def test_numbers_written_as_text_are_numbers_as_in_annotations(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth, found = perfect()
    for key in ("image_id", "category_id", "score"):
        for record in found:
            record[key] = str(record[key])
    for record in found:
        record["bbox"] = [str(value) for value in record["bbox"]]
    assert read(tmp_path, truth, found, caplog)[0] == pytest.approx(1.0)
