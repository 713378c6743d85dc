"""ImplicitFPN in the place of FeaturePyramidNetwork in torchvision's own detectors, unchanged otherwise."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from ifpn.necks import ImplicitFPN

C = 32  # the GroupNorm in torchvision's FCOS head needs a multiple of 32
IMAGES = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(i)) for i in range(2)]
TARGETS = [
    {"boxes": torch.tensor([[8.0, 8.0, 40.0, 50.0]]), "labels": torch.tensor([1])},
    {
        "boxes": torch.tensor([[20.0, 4.0, 90.0, 60.0], [2.0, 2.0, 20.0, 20.0]]),
        "labels": torch.tensor([2, 1]),
    },
]


def backbone(first: int, neck: ImplicitFPN) -> nn.Module:
    """torchvision's ResNet-18 with the neck where its FPN was."""
    layers = {f"layer{layer}": str(layer - first) for layer in range(first, 5)}
    channels = [64 * 2 ** (layer - 1) for layer in range(first, 5)]
    body = BackboneWithFPN(resnet18(weights=None), layers, channels, C)
    body.fpn = neck
    return body


def retina() -> nn.Module:
    neck = ImplicitFPN([128, 256, 512], C)
    return RetinaNet(backbone(2, neck), num_classes=3, min_size=64, max_size=96)


def retina_extra_blocks() -> nn.Module:
    neck = ImplicitFPN([128, 256, 512], C, LastLevelP6P7(C, C))
    return RetinaNet(backbone(2, neck), num_classes=3, min_size=64, max_size=96)


def fcos() -> nn.Module:
    return FCOS(backbone(2, ImplicitFPN([128, 256, 512], C)), num_classes=3, min_size=64, max_size=96)


def faster_rcnn() -> nn.Module:
    neck = ImplicitFPN([64, 128, 256, 512], C, extra_blocks=LastLevelMaxPool())
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (96,)), ((0.5, 1.0, 2.0),) * 5)
    return FasterRCNN(backbone(1, neck), num_classes=3, rpn_anchor_generator=anchors, min_size=64, max_size=96)


@pytest.mark.parametrize("make", [retina, retina_extra_blocks, fcos, faster_rcnn])
@pytest.mark.slow
def test_a_step_of_training_and_a_detection(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    detector = make().train()
    losses = detector(IMAGES, copy.deepcopy(TARGETS))
    total: Tensor = sum(losses.values(), torch.zeros(()))
    assert torch.isfinite(total)
    total.backward()
    neck = detector.get_submodule("backbone.fpn")
    assert [name for name, p in neck.named_parameters() if p.grad is None] == []
    moving = [name for name, p in neck.named_parameters() if p.grad is not None and p.grad.any()]
    assert len(moving) > 0.9 * len(list(neck.parameters()))  # a few may receive exactly zero
    torch.optim.SGD(detector.parameters(), lr=1e-3).step()
    with torch.no_grad():
        detections = detector.eval()(IMAGES)
    assert [set(d) for d in detections] == [{"boxes", "labels", "scores"}] * 2


def test_names_are_those_torchvision_expects() -> None:
    x = {str(level): torch.randn(1, 8, 32 >> level, 32 >> level) for level in range(4)}
    pooled = ImplicitFPN([8] * 4, C, extra_blocks=LastLevelMaxPool()).eval()(x)
    assert list(pooled) == ["0", "1", "2", "3", "pool"]
    extended = ImplicitFPN([8] * 4, C).eval()(x)
    assert list(extended) == ["0", "1", "2", "3", "p6", "p7"]
    assert {level.shape[1] for level in extended.values()} == {C}
