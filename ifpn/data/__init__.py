"""COCO-format folders in, (image, target) out; the built-in data set; samplers; checks of a data set."""

from ifpn.data.augment import Augment
from ifpn.data.coco.annotations import Categories, ClassMismatch, CocoAnnotations, load_annotations
from ifpn.data.coco.defects import DataError, DefectPolicy
from ifpn.data.dataset import CocoDataset, ImageFolder, ImageReading, collate
from ifpn.data.decode import BadImage, decode_image
from ifpn.data.module import DetectionData
from ifpn.data.sampler import ResumableBatchSampler, ShardSampler
from ifpn.data.shapes import Shapes
from ifpn.data.wires import Wires

Policy, Reading = DefectPolicy, ImageReading  # their names before 0.2; until 0.3

__all__ = [
    "Augment",
    "BadImage",
    "Categories",
    "ClassMismatch",
    "CocoAnnotations",
    "CocoDataset",
    "DataError",
    "DefectPolicy",
    "DetectionData",
    "ImageFolder",
    "ImageReading",
    "ResumableBatchSampler",
    "Shapes",
    "ShardSampler",
    "Wires",
    "collate",
    "decode_image",
    "load_annotations",
]
