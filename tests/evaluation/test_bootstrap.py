"""The paired bootstrap: its AP is COCO's, its resamples are data sets, its spread is the one of the statistic."""

import copy
from typing import Any

import numpy as np
import pytest

from ifpn.evaluation import CocoDetection, CocoEvaluator, GroundTruth, ScoredMatches, paired_bootstrap
from tests.evaluation.cases import random_case

Case = tuple[dict[str, Any], list[CocoDetection]]


def case(seed: int, **kind: Any) -> Case:
    """A random case in which no two detections have the same score."""
    truth, found = random_case(seed, **kind)
    scores = np.random.default_rng(seed).permutation(len(found)) / (len(found) + 1)
    return truth, [CocoDetection(**{**d, "score": float(s)}) for d, s in zip(found, scores, strict=True)]


def coco_ap(truth: dict[str, Any], found: list[CocoDetection]) -> float:
    evaluator = CocoEvaluator(truth, [c["id"] for c in truth["categories"]], "pycocotools")
    evaluator.update_records(found)
    return evaluator.compute().summary["AP"]


def repeated(truth: dict[str, Any], found: list[CocoDetection], counts: list[int]) -> Case:
    """A data set in which each image occurs so often, the copies under ids of their own."""
    many: dict[str, Any] = {"images": [], "annotations": [], "categories": truth["categories"]}
    detections: list[CocoDetection] = []
    for image, count in zip(truth["images"], counts, strict=True):
        for _ in range(count):
            new = len(many["images"]) + 1
            many["images"].append({**image, "id": new})
            for a in truth["annotations"]:
                if a["image_id"] == image["id"]:
                    many["annotations"].append({**a, "image_id": new, "id": len(many["annotations"]) + 1})
            for d in found:
                if d["image_id"] == image["id"]:
                    copied = copy.copy(d)
                    copied["image_id"] = new
                    detections.append(copied)
    return many, detections


@pytest.mark.parametrize("seed", range(20))
def test_ap_is_cocos(seed: int) -> None:
    """The same sums in another order: 1e-12."""
    truth, found = random_case(seed)
    matches = ScoredMatches(GroundTruth.load(truth), [CocoDetection(**d) for d in found])
    assert matches.ap() == pytest.approx(coco_ap(truth, [CocoDetection(**d) for d in found]), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_a_weight_is_so_many_copies_of_an_image(seed: int) -> None:
    truth, found = case(seed)
    counts = np.random.default_rng(seed).multinomial(len(truth["images"]), [1 / 6] * 6)
    weighted = ScoredMatches(GroundTruth.load(truth), found).ap(counts.astype(float))
    many, detections = repeated(truth, found, counts.tolist())
    assert weighted == pytest.approx(coco_ap(many, detections), abs=1e-12)


def test_a_detector_does_not_differ_from_itself() -> None:
    truth, found = case(1)
    matches = ScoredMatches(GroundTruth.load(truth), found)
    same = paired_bootstrap(matches, matches, resamples=20)
    assert (same.difference, same.error, same.low, same.high) == (0.0, 0.0, 0.0, 0.0)


def test_the_spread_is_that_of_a_share_of_images() -> None:
    """One box per image; a finds it in 60 of 100, b in all, without any false detection.

    AP is then the share found, within half of COCO's recall step of 0.01, and the standard deviation of a share
    of 0.6 among 100 images is sqrt(0.6 x 0.4 / 100) = 0.049. With 1000 draws it is known to 2 % (one sigma): 10 %
    leaves room for the steps of recall.
    """
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 64} for i in range(1, 101)]
    box = {"category_id": 1, "bbox": [0.0, 0.0, 40.0, 40.0]}
    boxes = [{**box, "id": i, "image_id": i, "area": 1600.0, "iscrowd": 0} for i in range(1, 101)]
    truth = GroundTruth.load({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "x"}]})
    found = [
        CocoDetection(image_id=i, category_id=1, bbox=[0.0, 0.0, 40.0, 40.0], score=1 - i / 200) for i in range(1, 101)
    ]
    part, whole = ScoredMatches(truth, found[:60]), ScoredMatches(truth, found)
    measured = paired_bootstrap(part, whole)
    assert whole.ap() == pytest.approx(1.0)
    assert measured.difference == pytest.approx(-0.4, abs=0.011)
    assert measured.error == pytest.approx(np.sqrt(0.6 * 0.4 / 100), rel=0.1)
    assert measured.low == pytest.approx(-0.4 - 1.96 * 0.049, abs=0.02)
    assert measured.high == pytest.approx(-0.4 + 1.96 * 0.049, abs=0.02)


def test_refusals() -> None:
    few, more = (ScoredMatches(GroundTruth.load(t), d) for t, d in (case(1), case(1, images=7)))
    with pytest.raises(ValueError, match="6 and 7 images"):
        paired_bootstrap(few, more)
    with pytest.raises(ValueError, match="resamples=1"):
        paired_bootstrap(few, few, resamples=1)


def test_no_boxes_no_ap() -> None:
    truth = {"images": [{"id": 1, "width": 9, "height": 9}], "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    matches = ScoredMatches(GroundTruth.load(truth), [])
    assert np.isnan(matches.ap())
    with pytest.raises(ValueError, match="no box to be found"):
        paired_bootstrap(matches, matches)
