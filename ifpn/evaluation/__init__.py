"""Detections in, COCO's numbers out: the 12 numbers, per class, prediction files, the submission file."""

from ifpn.evaluation.bootstrap import Difference, Matches, paired_bootstrap
from ifpn.evaluation.coco import CocoEvaluator
from ifpn.evaluation.confusion import ConfusionMatrix, confusion_matrix
from ifpn.evaluation.ground_truth import GroundTruth
from ifpn.evaluation.metric import CocoMetric
from ifpn.evaluation.predictions import (
    Prediction,
    PredictionError,
    read_predictions,
    submission_name,
    write_predictions,
    write_submission,
)
from ifpn.evaluation.result import SUMMARY_NAMES, CocoResult

__all__ = [
    "SUMMARY_NAMES",
    "CocoEvaluator",
    "CocoMetric",
    "CocoResult",
    "ConfusionMatrix",
    "Difference",
    "GroundTruth",
    "Matches",
    "Prediction",
    "PredictionError",
    "confusion_matrix",
    "paired_bootstrap",
    "read_predictions",
    "submission_name",
    "write_predictions",
    "write_submission",
]
