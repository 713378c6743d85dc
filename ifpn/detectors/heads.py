"""What turns pyramid levels into predictions: towers and predictors shared by all levels.

Two heads: `RetinaHead` (anchors, no normalisation layers) and `PointHead` (one prediction
per cell, group normalisation, a learned scale per level and a quality branch) for FCOS, ATSS and AutoAssign.
"""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from ifpn.bounds import Ge, Gt, Le, Lt, check
from ifpn.detectors.boxes import BoxCoder
from ifpn.layers.deform import ModulatedDeformConv2d
from ifpn.layers.norm import group_norm


class Prediction(NamedTuple):
    """Raw predictions at the A locations of all levels, float32.

    Attributes:
        cls_logits: (N, A, K) one logit per class.
        box_code: (N, A, 4) as the detector's box coding reads it.
        quality_logits: (N, A, 1) centerness (FCOS, ATSS) or objectness (AutoAssign); None for RetinaNet.
    """

    cls_logits: Tensor
    box_code: Tensor
    quality_logits: Tensor | None


class Tower(nn.Sequential):
    """`num_convs` times [3x3 convolution, GroupNorm if `norm`, ReLU], channels unchanged.

    With `deformable` the last convolution is a modulated deformable one (as ATSS and PAA in their large
    models).
    """

    def __init__(self, channels: int, num_convs: int, *, norm: bool, deformable: bool) -> None:
        layers: list[nn.Module] = []
        for i in range(num_convs):
            if deformable and i == num_convs - 1:
                layers.append(ModulatedDeformConv2d(channels, channels))
            else:
                layers.append(nn.Conv2d(channels, channels, kernel_size=3, padding=1))
            if norm:
                layers.append(group_norm(channels))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


@check
class RetinaHead(nn.Module):
    """Lin et al. 2017, "Focal Loss for Dense Object Detection", Sec. 4.

    Args:
        channels: channels of every level.
        num_classes: K.
        strides: stride of each level, in pixels.
        anchors_per_cell: predictions per cell.
        box_coder: turns raw outputs into codes.
        num_convs: convolutions of each tower.
        initial_probability: probability that every class starts with.
        deformable: last convolution of both towers deformable.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        *,
        anchors_per_cell: int,
        box_coder: BoxCoder,
        num_convs: Annotated[int, Ge(0), Le(16)],
        initial_probability: Annotated[float, Gt(0), Lt(1)],
        deformable: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.box_coder = box_coder
        self.cls_tower = Tower(channels, num_convs, norm=False, deformable=deformable)
        self.box_tower = Tower(channels, num_convs, norm=False, deformable=deformable)
        self.cls = nn.Conv2d(channels, anchors_per_cell * num_classes, kernel_size=3, padding=1)
        self.box = nn.Conv2d(channels, anchors_per_cell * 4, kernel_size=3, padding=1)
        init_head(self, self.cls, initial_probability)

    def forward(self, pyramid: list[Tensor]) -> Prediction:
        """[(N, C, H_l, W_l)] -> predictions, locations ordered (level, row, column, anchor)."""
        cls = [flatten(self.cls(self.cls_tower(level)), self.num_classes) for level in pyramid]
        box = [
            self.box_coder.activate(flatten(self.box(self.box_tower(level)), 4).float(), stride)
            for level, stride in zip(pyramid, self.strides, strict=True)
        ]
        return Prediction(torch.cat(cls, dim=1).float(), torch.cat(box, dim=1), None)


@check
class PointHead(nn.Module):
    """Tian et al. 2019, "FCOS", Sec. 3, with the quality branch on the box tower.

    Args:
        channels: channels of every level.
        num_classes: K.
        strides: stride of each level, in pixels.
        box_coder: turns raw outputs, times the level's learned scale, into codes.
        num_convs: convolutions of each tower.
        initial_probability: probability that every class starts with.
        box_bias: initial bias of the box predictor.
        deformable: last convolution of both towers deformable.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        *,
        box_coder: BoxCoder,
        num_convs: Annotated[int, Ge(0), Le(16)],
        initial_probability: Annotated[float, Gt(0), Lt(1)],
        box_bias: Annotated[float, Ge(-100), Le(100)],
        deformable: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.box_coder = box_coder
        self.cls_tower = Tower(channels, num_convs, norm=True, deformable=deformable)
        self.box_tower = Tower(channels, num_convs, norm=True, deformable=deformable)
        self.cls = nn.Conv2d(channels, num_classes, kernel_size=3, padding=1)
        self.box = nn.Conv2d(channels, 4, kernel_size=3, padding=1)
        self.quality = nn.Conv2d(channels, 1, kernel_size=3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(strides)))
        init_head(self, self.cls, initial_probability)
        nn.init.constant_(self.box.bias, box_bias)  # type: ignore[arg-type]  # made with a bias above

    def forward(self, pyramid: list[Tensor]) -> Prediction:
        """[(N, C, H_l, W_l)] -> predictions, locations ordered (level, row, column)."""
        cls, box, quality = [], [], []
        for level, scale, stride in zip(pyramid, self.scales, self.strides, strict=True):
            cls.append(flatten(self.cls(self.cls_tower(level)), self.num_classes))
            features = self.box_tower(level)
            # float32 before the product: distances of 1000 px have steps of 4 px in bfloat16
            box.append(self.box_coder.activate(flatten(self.box(features), 4).float() * scale, stride))
            quality.append(flatten(self.quality(features), 1))
        return Prediction(torch.cat(cls, dim=1).float(), torch.cat(box, dim=1), torch.cat(quality, dim=1).float())


def flatten(level: Tensor, last: int) -> Tensor:
    """(N, B * last, H, W) -> (N, H * W * B, last)."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, last)


def init_head(head: nn.Module, cls: nn.Conv2d, initial_probability: float) -> None:
    """Weights N(0, 0.01), biases 0; `cls` starts at `initial_probability` (Lin et al. 2017, Sec. 4.1)."""
    for name, parameter in head.named_parameters():
        module = head.get_submodule(name.rpartition(".")[0])
        if not isinstance(module, nn.Conv2d | ModulatedDeformConv2d) or ".offset." in name:
            continue  # norms, scales, and the offsets of a deformable convolution, which start at zero
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=0.01)
    nn.init.constant_(cls.bias, -math.log((1 - initial_probability) / initial_probability))  # type: ignore[arg-type]
