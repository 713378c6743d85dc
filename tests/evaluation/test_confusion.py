"""The confusion matrix counts pairs of classes, and every box and detection exactly once."""

import numpy as np
import pytest
from PIL import Image

from ifpn.evaluation import CocoEvaluator, GroundTruth, confusion_matrix
from ifpn.plots.evaluation import draw_confusion, draw_precision_recall, draw_sizes
from tests.evaluation.cases import random_case


def truth_of(*boxes: tuple[int, list[float], int]) -> GroundTruth:
    return GroundTruth.load(
        {
            "images": [{"id": 1}],
            "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
            "annotations": [
                {"id": i, "image_id": 1, "category_id": c, "bbox": b, "iscrowd": crowd}
                for i, (c, b, crowd) in enumerate(boxes)
            ],
        }
    )


def found(category: int, box: list[float], score: float):
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


def test_hits_confusions_misses_and_inventions_have_their_places() -> None:
    truth = truth_of((3, [0, 0, 10, 10], 0), (9, [20, 0, 10, 10], 0), (9, [40, 0, 10, 10], 0), (9, [60, 0, 30, 30], 1))
    predictions = [
        found(3, [0, 0, 10, 10], 0.9),  # a cat for a cat
        found(9, [0, 0, 10, 10], 0.8),  # the same box again: nothing left to match
        found(3, [20, 1, 10, 10], 0.7),  # a cat for a dog
        found(9, [100, 100, 5, 5], 0.6),  # nothing there
        found(9, [65, 5, 5, 5], 0.9),  # inside the crowd: neither right nor wrong
        found(9, [40, 0, 10, 10], 0.1),  # below the threshold: the dog counts as missed
    ]
    matrix = confusion_matrix(truth, predictions, iou_threshold=0.5, score_threshold=0.3)
    assert matrix.class_names == ("cat", "dog")
    assert matrix.counts.tolist() == [[1, 0, 0], [1, 0, 1], [0, 2, 0]]


def test_the_better_score_takes_the_box_and_the_best_overlap_wins() -> None:
    truth = truth_of((3, [0, 0, 10, 10], 0), (9, [4, 0, 10, 10], 0))
    predictions = [found(9, [3, 0, 10, 10], 0.5), found(3, [0, 0, 10, 10], 0.4)]
    matrix = confusion_matrix(truth, predictions, iou_threshold=0.3, score_threshold=0.0)
    assert matrix.counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("seed", range(6))
def test_rows_count_all_boxes_and_columns_no_detection_twice(seed: int) -> None:
    truth, predictions = random_case(seed)
    ground = GroundTruth.load(truth)
    matrix = confusion_matrix(ground, predictions, iou_threshold=0.5, score_threshold=0.0)
    for k, category in enumerate(ground.category_names):
        boxes = sum(a["category_id"] == category and not a["iscrowd"] for a in truth["annotations"])
        assert matrix.counts[k].sum() == boxes
        assert matrix.counts[:, k].sum() <= sum(p["category_id"] == category for p in predictions)
    assert matrix.counts[-1, -1] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "empty"), [(1, False), (20, False), (3, True)])
def test_pictures_are_written_for_few_and_many_classes_and_for_nothing(tmp_path, classes: int, empty: bool) -> None:
    truth, predictions = random_case(3, classes=classes)
    if empty:
        truth["annotations"], predictions = [], []
    evaluator = CocoEvaluator(truth, [c["id"] for c in truth["categories"]])
    evaluator.update_records(predictions)
    result = evaluator.compute()
    matrix = confusion_matrix(evaluator.ground_truth, predictions, iou_threshold=0.5, score_threshold=0.3)
    draw_precision_recall(result, tmp_path / "pr.png")
    draw_sizes(result, tmp_path / "sizes.png")
    draw_confusion(matrix, tmp_path / "confusion.png")
    for name in ("pr", "sizes", "confusion"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels.shape[1] >= 500
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # something is drawn
