"""Backbones: an image in, its feature levels c2..c5 out.

Every backbone is an `nn.Module` whose `forward(images)` takes normalised images (N, 3, H, W) and returns
an `OrderedDict` with the keys "c2", "c3", "c4", "c5" at strides 4, 8, 16, 32. It carries `levels`
({name: (channels, stride)}) and `image_mean` / `image_std`, the normalisation its weights expect.
"""

from ifpn.backbones.efficientnet import (
    EfficientNetLite,
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
)
from ifpn.backbones.frozen import FrozenBatchNorm2d, freeze_norms
from ifpn.backbones.resnet import (
    ResNet,
    resnet18,
    resnet50,
    resnet101,
    resnext101_64x4d,
    resnext152_32x8d,
)
from ifpn.backbones.stem import Stem
from ifpn.backbones.timm_features import TimmBackbone
from ifpn.errors import WeightsError
from ifpn.layers.deform import ModulatedDeformConv2d

__all__ = [
    "EfficientNetLite",
    "FrozenBatchNorm2d",
    "ModulatedDeformConv2d",
    "ResNet",
    "Stem",
    "TimmBackbone",
    "WeightsError",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "freeze_norms",
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext101_64x4d",
    "resnext152_32x8d",
]
