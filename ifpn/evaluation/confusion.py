"""Which class is taken for which: a confusion matrix for detections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifpn.evaluation.ground_truth import CocoDetection, GroundTruth

Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts (K+1, K+1): row = true class, column = predicted class, last of each = background."""

    counts: NDArray[np.int64]
    class_names: tuple[str, ...]
    iou_threshold: float
    score_threshold: float


def confusion_matrix(
    ground_truth: GroundTruth,
    predictions: Sequence[CocoDetection],
    *,
    iou_threshold: float,
    score_threshold: float,
) -> ConfusionMatrix:
    """Match detections with boxes whatever their classes, and count the pairs of classes.

    Per image, detections with a score of at least ``score_threshold`` take, best score first, the free box
    they overlap most, if the IoU is at least ``iou_threshold``. A box taken by nobody counts as missed; a
    detection without a box counts as background, unless half of it lies in a crowd region (crowd regions
    count nowhere else).
    """
    order = {category_id: k for k, category_id in enumerate(ground_truth.category_names)}
    counts = np.zeros((len(order) + 1, len(order) + 1), dtype=np.int64)
    boxes_of: dict[int, list[tuple[list[float], int, int]]] = defaultdict(list)
    for a in ground_truth.annotations:
        boxes_of[a["image_id"]].append((a["bbox"], order[a["category_id"]], a["iscrowd"]))
    found_of: dict[int, list[CocoDetection]] = defaultdict(list)
    for p in predictions:
        if p["score"] >= score_threshold:
            found_of[p["image_id"]].append(p)
    for image_id in ground_truth.image_ids:
        truth = [entry for entry in boxes_of[image_id] if not entry[2]]
        crowd = _array([box for box, _, is_crowd in boxes_of[image_id] if is_crowd])
        found = sorted(found_of[image_id], key=lambda p: -p["score"])
        detected = _array([p["bbox"] for p in found])
        overlap = overlaps(detected, _array([box for box, _, _ in truth]), over_union=True)
        in_crowd = overlaps(detected, crowd, over_union=False).max(axis=1, initial=0.0) >= 0.5
        for i, p in enumerate(found):
            best = int(overlap[i].argmax()) if truth else -1
            if best >= 0 and overlap[i, best] >= iou_threshold:
                counts[truth[best][1], order[p["category_id"]]] += 1
                overlap[:, best] = -1.0  # taken; also marks the box as found
            elif not in_crowd[i]:
                counts[-1, order[p["category_id"]]] += 1
        for j, (_, k, _) in enumerate(truth):
            if not (overlap[:, j] == -1.0).any():
                counts[k, -1] += 1
    return ConfusionMatrix(counts, tuple(ground_truth.category_names.values()), iou_threshold, score_threshold)


def _array(boxes: list[list[float]]) -> Boxes:
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def overlaps(a: Boxes, b: Boxes, *, over_union: bool) -> NDArray[np.float64]:
    """(N, M) intersection of x, y, w, h boxes over their union, or over the area of ``a``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    area_a, area_b = a[:, 2:].prod(axis=1)[:, None], b[:, 2:].prod(axis=1)[None]
    whole: Boxes = area_a + area_b - common if over_union else np.broadcast_to(area_a, common.shape)
    ratio: Boxes = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
    return ratio
