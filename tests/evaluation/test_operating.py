"""Precision, recall and F1 above a score, against a count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ifpn.evaluation.ground_truth import GroundTruth
from ifpn.evaluation.operating import operating_points

TRUTH = {
    "images": [{"id": 1, "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    "annotations": [
        {"id": i, "image_id": 1, "category_id": c, "bbox": [10.0 * i, 0, 8, 8], "area": 64, "iscrowd": 0}
        for i, c in enumerate((1, 1, 2, 2), start=1)
    ],
}


def box(place: float, category: int, score: float) -> dict[str, object]:
    return {"image_id": 1, "category_id": category, "bbox": [10.0 * place, 0, 8, 8], "score": score}


def test_every_threshold_is_counted_by_hand() -> None:
    found = [box(1, 1, 0.9), box(8, 1, 0.6), box(3, 2, 0.6), box(2, 1, 0.3), box(2, 2, 0.2)]
    points = operating_points(GroundTruth.load(TRUTH), found)  # type: ignore[arg-type]
    # 0.6 occurs twice, one right and one wrong: no threshold parts them.
    assert points.scores.tolist() == [0.9, 0.6, 0.3, 0.2]
    assert points.precision == pytest.approx([1, 2 / 3, 3 / 4, 3 / 5])
    assert points.recall == pytest.approx([1 / 4, 2 / 4, 3 / 4, 3 / 4])
    assert points.f1 == pytest.approx([0.4, 4 / 7, 0.75, 2 / 3])
    assert points.best == 0.3


def test_nothing_found_has_no_threshold() -> None:
    points = operating_points(GroundTruth.load(TRUTH), [])
    assert (points.best, points.truths, len(points.scores)) == (None, 4, 0)
    wrong = operating_points(GroundTruth.load(TRUTH), [box(8, 1, 0.5)])  # type: ignore[list-item]
    assert wrong.best is None
    assert np.array_equal(wrong.precision, [0.0])
