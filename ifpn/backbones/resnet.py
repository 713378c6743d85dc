"""ResNet and ResNeXt from torchvision, made for detection: levels out, frozen start, deformable stages."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models import (
    ResNet18_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    ResNeXt101_64X4D_Weights,
    WeightsEnum,
)
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from ifpn.backbones.checkpointing import run
from ifpn.backbones.frozen import FrozenStages, freeze_norms, freeze_stages
from ifpn.backbones.weights import State, download, load_weights
from ifpn.errors import UserError, WeightsError
from ifpn.layers.deform import OFFSET_KEYS, deform_bottlenecks

_STAGES = [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]
_STAGE_OF_LEVEL = {"c2": "layer1", "c3": "layer2", "c4": "layer3", "c5": "layer4"}
_STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}


@dataclass(frozen=True)
class Variant:
    """A depth and width.

    Attributes:
        name: for messages.
        blocks: residual blocks per stage, e.g. (3, 4, 6, 3).
        published: torchvision's entry for `weights="imagenet"`; None where no public weights exist.
        bottleneck: 1x1-3x3-1x1 blocks (True) or 3x3-3x3 blocks (False).
        groups: ResNeXt's cardinality; 1 is ResNet.
        width_per_group: ResNeXt's width; 64 is ResNet.
    """

    name: str
    blocks: Sequence[int]
    published: WeightsEnum | None
    bottleneck: bool = True
    groups: int = 1
    width_per_group: int = 64


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("resnet18", (2, 2, 2, 2), ResNet18_Weights.IMAGENET1K_V1, bottleneck=False),
        Variant("resnet50", (3, 4, 6, 3), ResNet50_Weights.IMAGENET1K_V1),
        Variant("resnet101", (3, 4, 23, 3), ResNet101_Weights.IMAGENET1K_V1),
        Variant("resnext101_64x4d", (3, 4, 23, 3), ResNeXt101_64X4D_Weights.IMAGENET1K_V1, True, 64, 4),
        Variant("resnext152_32x8d", (3, 8, 36, 3), None, True, 32, 8),
    )
}


class ResNet(nn.Module):
    """A ResNet or ResNeXt body (He et al. 2016, Xie et al. 2017; stride in the 3 x 3 convolution).

    Sub-modules keep torchvision's names, so torchvision's weight files load as they are. The functions below make the
    variants of `VARIANTS`.

    Args:
        variant: depth and width.
        weights: "imagenet", "none", the path of a .pth/.pt/.safetensors file, or of a detector of ours (.ckpt, export).
        frozen_stages: how many stages never change, stem included: 2 is stem + c2.
        frozen_norm: batch norm statistics and affine parts constant in all stages.
        deform_stages: levels whose 3 x 3 convolutions are deformable (v2), of "c2".."c5"; bottlenecks only.
        checkpointing: compute the stages' activations again in the backward pass instead of keeping them.

    Raises:
        UserError: an option outside its allowed set, or weights that do not fit.
    """

    image_mean = (0.485, 0.456, 0.406)  # of torchvision's ImageNet weights
    image_std = (0.229, 0.224, 0.225)

    def __init__(
        self,
        variant: Variant,
        weights: str,
        frozen_stages: FrozenStages,
        frozen_norm: bool,
        deform_stages: Sequence[str] = (),
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        unknown = [stage for stage in deform_stages if stage not in _STAGE_OF_LEVEL]
        if unknown or (deform_stages and not variant.bottleneck):
            raise UserError(
                f"deform_stages={list(deform_stages)} for {variant.name}: must be "
                + (f"levels of {list(_STAGE_OF_LEVEL)}" if variant.bottleneck else "[], its blocks have no bottleneck")
            )
        block = Bottleneck if variant.bottleneck else BasicBlock
        body = TorchvisionResNet(
            block, list(variant.blocks), groups=variant.groups, width_per_group=variant.width_per_group
        )
        del body.avgpool, body.fc
        deform_bottlenecks(body, (_STAGE_OF_LEVEL[level] for level in deform_stages))
        load_weights(
            body,
            weights,
            name=variant.name,
            imagenet=lambda: _imagenet(variant),
            unused=("fc.",),
            may_start_fresh=OFFSET_KEYS,
        )
        if frozen_norm:
            freeze_norms(body)
        freeze_stages(body, _STAGES, frozen_stages)
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        self.levels: dict[str, tuple[int, int]] = {
            level: (64 * 2**index * block.expansion, stride) for index, (level, stride) in enumerate(_STRIDES.items())
        }

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) -> c2..c5 with sizes ceil(H / stride) x ceil(W / stride)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        out: OrderedDict[str, Tensor] = OrderedDict()
        for level, stage in _STAGE_OF_LEVEL.items():
            out[level] = x = run(self.get_submodule(stage), x, checkpointing=self.checkpointing)
        return out


def _imagenet(variant: Variant) -> State:
    published = variant.published
    if published is None:
        raise WeightsError(
            f"no public ImageNet weights exist for {variant.name} in torchvision's form: convert some and pass them "
            "as backbone.weights=PATH (torchvision's key names), or start from random values with "
            "backbone.weights=none"
        )
    fetch = published.get_state_dict
    return download(lambda: fetch(progress=True, check_hash=True), name=variant.name, url=published.url)


def resnet18(weights: str, frozen_stages: FrozenStages, frozen_norm: bool, checkpointing: bool = False) -> ResNet:
    """ResNet-18, c2..c5 with 64, 128, 256, 512 channels. Arguments as `ResNet`."""
    return ResNet(VARIANTS["resnet18"], weights, frozen_stages, frozen_norm, (), checkpointing)


def resnet50(
    weights: str,
    frozen_stages: FrozenStages,
    frozen_norm: bool,
    deform_stages: Sequence[str] = (),
    checkpointing: bool = False,
) -> ResNet:
    """ResNet-50, c2..c5 with 256, 512, 1024, 2048 channels. Arguments as `ResNet`."""
    return ResNet(VARIANTS["resnet50"], weights, frozen_stages, frozen_norm, deform_stages, checkpointing)


def resnet101(
    weights: str,
    frozen_stages: FrozenStages,
    frozen_norm: bool,
    deform_stages: Sequence[str] = (),
    checkpointing: bool = False,
) -> ResNet:
    """ResNet-101, c2..c5 with 256, 512, 1024, 2048 channels. Arguments as `ResNet`."""
    return ResNet(VARIANTS["resnet101"], weights, frozen_stages, frozen_norm, deform_stages, checkpointing)


def resnext101_64x4d(
    weights: str,
    frozen_stages: FrozenStages,
    frozen_norm: bool,
    deform_stages: Sequence[str] = (),
    checkpointing: bool = False,
) -> ResNet:
    """ResNeXt-101-64x4d, c2..c5 with 256, 512, 1024, 2048 channels. Arguments as `ResNet`."""
    return ResNet(VARIANTS["resnext101_64x4d"], weights, frozen_stages, frozen_norm, deform_stages, checkpointing)


def resnext152_32x8d(
    weights: str,
    frozen_stages: FrozenStages,
    frozen_norm: bool,
    deform_stages: Sequence[str] = (),
    checkpointing: bool = False,
) -> ResNet:
    """ResNeXt-152-32x8d (no public weights), ResNet-50 channels. Arguments as `ResNet`."""
    return ResNet(VARIANTS["resnext152_32x8d"], weights, frozen_stages, frozen_norm, deform_stages, checkpointing)
