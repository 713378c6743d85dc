"""Detections in, COCO's numbers out: the 12 numbers, per class, prediction files, the submission file."""

from ifpn.evaluation.bootstrap import Difference, ScoredMatches, paired_bootstrap
from ifpn.evaluation.coco import CocoEvaluator, match_classes
from ifpn.evaluation.confusion import ConfusionMatrix, confusion_matrix
from ifpn.evaluation.ground_truth import CocoDetection, GroundTruth
from ifpn.evaluation.metric import CocoMetric
from ifpn.evaluation.predictions import (
    PredictionError,
    read_predictions,
    submission_name,
    write_predictions,
    write_submission,
)
from ifpn.evaluation.result import SUMMARY_NAMES, CocoResult

Matches, Prediction = ScoredMatches, CocoDetection  # their names before 0.2; until 0.3

__all__ = [
    "SUMMARY_NAMES",
    "CocoDetection",
    "CocoEvaluator",
    "CocoMetric",
    "CocoResult",
    "ConfusionMatrix",
    "Difference",
    "GroundTruth",
    "PredictionError",
    "ScoredMatches",
    "confusion_matrix",
    "match_classes",
    "paired_bootstrap",
    "read_predictions",
    "submission_name",
    "write_predictions",
    "write_submission",
]
