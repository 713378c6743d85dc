"""Detectors: pyramid in, losses or boxes out. Four share one dense detector; Faster R-CNN has two stages."""

from ifpn.detectors.anchors import AnchorGrid
from ifpn.detectors.atss import ATSSCriterion
from ifpn.detectors.autoassign import AutoAssignCriterion
from ifpn.detectors.body import BackboneWithNeck, attach_neck
from ifpn.detectors.boxes import DeltaCoder, LTRBCoder
from ifpn.detectors.dense import DenseDetector
from ifpn.detectors.faster_rcnn import FasterRCNN
from ifpn.detectors.fcos import FCOSCriterion
from ifpn.detectors.heads import PointHead, RetinaHead
from ifpn.detectors.postprocess import Postprocess
from ifpn.detectors.retina import RetinaNetCriterion

Body = BackboneWithNeck  # the name of 0.1, until 0.3

__all__ = [
    "ATSSCriterion",
    "AnchorGrid",
    "AutoAssignCriterion",
    "BackboneWithNeck",
    "Body",
    "DeltaCoder",
    "DenseDetector",
    "FCOSCriterion",
    "FasterRCNN",
    "LTRBCoder",
    "PointHead",
    "Postprocess",
    "RetinaHead",
    "RetinaNetCriterion",
    "attach_neck",
]
