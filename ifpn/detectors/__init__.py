"""Detectors: pyramid in, losses or boxes out. Four share one dense detector; Faster R-CNN has two stages."""

from ifpn.detectors.atss import ATSS, ATSSCriterion
from ifpn.detectors.autoassign import AutoAssign, AutoAssignCriterion
from ifpn.detectors.body import BackboneWithNeck
from ifpn.detectors.dense import DenseDetector
from ifpn.detectors.faster_rcnn import FasterRCNN
from ifpn.detectors.fcos import FCOS, FCOSCriterion
from ifpn.detectors.retina import RetinaNet, RetinaNetCriterion

Body = BackboneWithNeck  # the name of 0.1, until 0.3

__all__ = [
    "ATSS",
    "FCOS",
    "ATSSCriterion",
    "AutoAssign",
    "AutoAssignCriterion",
    "BackboneWithNeck",
    "Body",
    "DenseDetector",
    "FCOSCriterion",
    "FasterRCNN",
    "RetinaNet",
    "RetinaNetCriterion",
]
