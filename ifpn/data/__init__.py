"""COCO-format folders in, (image, target) out; the built-in data set; samplers; checks of a data set."""

from ifpn.data.annotations import Categories, ClassMismatch, CocoAnnotations, load_annotations
from ifpn.data.augment import Augment
from ifpn.data.dataset import CocoDataset, ImageFolder, Reading, collate
from ifpn.data.decode import BadImage, decode_image
from ifpn.data.defects import DataError, Policy
from ifpn.data.module import DetectionData
from ifpn.data.sampler import ResumableBatchSampler, ShardSampler
from ifpn.data.shapes import Shapes

__all__ = [
    "Augment",
    "BadImage",
    "Categories",
    "ClassMismatch",
    "CocoAnnotations",
    "CocoDataset",
    "DataError",
    "DetectionData",
    "ImageFolder",
    "Policy",
    "Reading",
    "ResumableBatchSampler",
    "Shapes",
    "ShardSampler",
    "collate",
    "decode_image",
    "load_annotations",
]
