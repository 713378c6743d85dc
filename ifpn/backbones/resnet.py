"""ResNet and ResNeXt from torchvision, made for detection: levels out, frozen start, deformable stages."""

from collections import OrderedDict
from collections.abc import Sequence

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

from ifpn.backbones.frozen import freeze_norms, freeze_stages
from ifpn.backbones.weights import State, download, load_weights
from ifpn.errors import WeightsError
from ifpn.layers.deform import OFFSET_KEYS, deform_bottlenecks

_STAGES = [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]
_STAGE_OF_LEVEL = {"c2": "layer1", "c3": "layer2", "c4": "layer3", "c5": "layer4"}
_STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}


class ResNet(nn.Module):
    """A ResNet or ResNeXt body (He et al. 2016, Xie et al. 2017; stride in the 3 x 3 convolution).

    Sub-modules keep torchvision's names, so torchvision's weight files load as they are. Use the functions
    below unless you need another depth or width.

    Args:
        blocks: residual blocks per stage, e.g. (3, 4, 6, 3).
        bottleneck: 1x1-3x3-1x1 blocks (True) or 3x3-3x3 blocks (False).
        groups, width_per_group: ResNeXt's cardinality and width; 1 and 64 are ResNet.
        name: for messages.
        weights: "imagenet", "none" or the path of a .pth/.pt/.safetensors file.
        published: torchvision's entry for "imagenet"; None where no public weights exist.
        frozen_stages: how many stages never change, stem included: 2 is stem + c2.
        frozen_norm: batch norm statistics and affine parts constant in all stages.
        deform_stages: levels whose 3 x 3 convolutions are deformable (v2), of "c2".."c5"; bottlenecks only.

    Raises:
        ValueError: an option outside its allowed set, or weights that do not fit.
    """

    image_mean = (0.485, 0.456, 0.406)  # of torchvision's ImageNet weights
    image_std = (0.229, 0.224, 0.225)

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        bottleneck: bool,
        groups: int,
        width_per_group: int,
        name: str,
        weights: str,
        published: WeightsEnum | None,
        frozen_stages: int,
        frozen_norm: bool,
        deform_stages: Sequence[str],
    ) -> None:
        super().__init__()
        unknown = [stage for stage in deform_stages if stage not in _STAGE_OF_LEVEL]
        if unknown or (deform_stages and not bottleneck):
            raise ValueError(
                f"deform_stages={list(deform_stages)} for {name}: allowed are "
                + (f"levels of {list(_STAGE_OF_LEVEL)}" if bottleneck else "no levels: its blocks have no bottleneck")
            )
        body = TorchvisionResNet(
            Bottleneck if bottleneck else BasicBlock,
            list(blocks),
            groups=groups,
            width_per_group=width_per_group,
        )
        del body.avgpool, body.fc
        deform_bottlenecks(body, (_STAGE_OF_LEVEL[level] for level in deform_stages))
        load_weights(
            body,
            weights,
            name=name,
            imagenet=lambda: _imagenet(published, name),
            unused=("fc.",),
            may_start_fresh=OFFSET_KEYS,
        )
        if frozen_norm:
            freeze_norms(body)
        freeze_stages(body, _STAGES, frozen_stages)
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            body.layer1,
            body.layer2,
            body.layer3,
            body.layer4,
        )
        expansion = Bottleneck.expansion if bottleneck else BasicBlock.expansion
        self.levels: dict[str, tuple[int, int]] = {
            level: (64 * 2**index * expansion, stride) for index, (level, stride) in enumerate(_STRIDES.items())
        }

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) -> c2..c5 with sizes ceil(H / stride) x ceil(W / stride)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        out: OrderedDict[str, Tensor] = OrderedDict()
        out["c2"] = x = self.layer1(x)
        out["c3"] = x = self.layer2(x)
        out["c4"] = x = self.layer3(x)
        out["c5"] = self.layer4(x)
        return out


def _imagenet(published: WeightsEnum | None, name: str) -> State:
    if published is None:
        raise WeightsError(
            f"no public ImageNet weights exist for {name} in torchvision's form: convert some and pass them "
            "as backbone.weights=PATH (torchvision's key names), or start from random values with "
            "backbone.weights=none"
        )
    return download(lambda: published.get_state_dict(progress=True, check_hash=True), name=name, url=published.url)


def resnet18(weights: str, frozen_stages: int, frozen_norm: bool) -> ResNet:
    """ResNet-18, c2..c5 with 64, 128, 256, 512 channels. Arguments as :class:`ResNet`."""
    return ResNet(
        (2, 2, 2, 2),
        bottleneck=False,
        groups=1,
        width_per_group=64,
        name="resnet18",
        weights=weights,
        published=ResNet18_Weights.IMAGENET1K_V1,
        frozen_stages=frozen_stages,
        frozen_norm=frozen_norm,
        deform_stages=(),
    )


def resnet50(weights: str, frozen_stages: int, frozen_norm: bool, deform_stages: Sequence[str] = ()) -> ResNet:
    """ResNet-50, c2..c5 with 256, 512, 1024, 2048 channels. Arguments as :class:`ResNet`."""
    return ResNet(
        (3, 4, 6, 3),
        bottleneck=True,
        groups=1,
        width_per_group=64,
        name="resnet50",
        weights=weights,
        published=ResNet50_Weights.IMAGENET1K_V1,
        frozen_stages=frozen_stages,
        frozen_norm=frozen_norm,
        deform_stages=deform_stages,
    )


def resnet101(weights: str, frozen_stages: int, frozen_norm: bool, deform_stages: Sequence[str] = ()) -> ResNet:
    """ResNet-101, c2..c5 with 256, 512, 1024, 2048 channels. Arguments as :class:`ResNet`."""
    return ResNet(
        (3, 4, 23, 3),
        bottleneck=True,
        groups=1,
        width_per_group=64,
        name="resnet101",
        weights=weights,
        published=ResNet101_Weights.IMAGENET1K_V1,
        frozen_stages=frozen_stages,
        frozen_norm=frozen_norm,
        deform_stages=deform_stages,
    )


def resnext101_64x4d(weights: str, frozen_stages: int, frozen_norm: bool, deform_stages: Sequence[str] = ()) -> ResNet:
    """ResNeXt-101-64x4d, c2..c5 with 256, 512, 1024, 2048 channels. Arguments as :class:`ResNet`."""
    return ResNet(
        (3, 4, 23, 3),
        bottleneck=True,
        groups=64,
        width_per_group=4,
        name="resnext101_64x4d",
        weights=weights,
        published=ResNeXt101_64X4D_Weights.IMAGENET1K_V1,
        frozen_stages=frozen_stages,
        frozen_norm=frozen_norm,
        deform_stages=deform_stages,
    )


def resnext152_32x8d(weights: str, frozen_stages: int, frozen_norm: bool, deform_stages: Sequence[str] = ()) -> ResNet:
    """ResNeXt-152-32x8d (no public weights), ResNet-50 channels. Arguments as :class:`ResNet`."""
    return ResNet(
        (3, 8, 36, 3),
        bottleneck=True,
        groups=32,
        width_per_group=8,
        name="resnext152_32x8d",
        weights=weights,
        published=None,
        frozen_stages=frozen_stages,
        frozen_norm=frozen_norm,
        deform_stages=deform_stages,
    )
