"""From which score on to believe a detector: precision, recall and F1 at every threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifpn.evaluation.bootstrap import ScoredMatches
from ifpn.evaluation.ground_truth import CocoDetection, GroundTruth

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoints:
    """What is found when detections below a score are left out; one entry per distinct score, the highest first.

    Attributes:
        scores: (S,) thresholds.
        precision: (S,) share of the detections that are right at IoU 0.50, all classes together.
        recall: (S,) share of the boxes that are found.
        truths: boxes to be found.
    """

    scores: Floats
    precision: Floats
    recall: Floats
    truths: int

    @property
    def f1(self) -> Floats:
        """(S,) harmonic mean of precision and recall; 0 where both are."""
        total = self.precision + self.recall
        ratio: Floats = np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)
        return ratio

    @property
    def best(self) -> float | None:
        """The score threshold with the highest F1, the highest of several; None if nothing was found."""
        f1 = self.f1
        return float(self.scores[int(f1.argmax())]) if len(f1) and f1.max() > 0 else None


def operating_points(truth: GroundTruth, detections: Sequence[CocoDetection]) -> OperatingPoints:
    """Count right and wrong detections of all classes above every score that occurs.

    What COCO ignores (crowd regions) counts neither as right nor as wrong.
    """
    scores, hits, misses, truths = ScoredMatches(truth, detections).pooled()
    order = np.argsort(-scores, kind="stable")
    scores, right, wrong = scores[order], np.cumsum(hits[order]), np.cumsum(misses[order])
    # Detections of one score go together: the threshold cannot part them.
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.zeros(0, dtype=np.int64)
    counted = right[last] + wrong[last]
    precision = np.divide(right[last], counted, out=np.ones(len(last)), where=counted > 0)
    recall = right[last] / truths if truths else np.zeros(len(last))
    return OperatingPoints(scores[last], precision, recall, truths)
