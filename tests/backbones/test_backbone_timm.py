"""backbone=timm backbone.name=…: any network of timm with maps at strides 4 to 32."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from ifpn.backbones import TimmBackbone, WeightsError
from ifpn.errors import UserError


def make(name: str, weights: str = "none", frozen_stages: int = 0, frozen_norm: bool = False) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(name, weights, frozen_stages, frozen_norm)


# Of each kind: a stem of stride 4, maps at stride 2 that are left out, blocks in a module of their own, no batch norm.
@pytest.mark.parametrize("name", ["regnetx_002", "mobilenetv3_small_050", "edgenext_xx_small", "convnext_atto"])
def test_the_levels_are_what_the_network_says(name: str) -> None:
    backbone = make(name)
    assert [stride for _, stride in backbone.levels.values()] == [4, 8, 16, 32]
    maps = backbone(torch.rand(1, 3, 96, 64))
    for level, (channels, stride) in backbone.levels.items():
        assert maps[level].shape == (1, channels, 96 // stride, 64 // stride)
    maps["c5"].square().mean().backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
    assert backbone.image_mean == timm.get_pretrained_cfg(name).mean


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_classifier_file_of_timm_loads_completely(tmp_path: Path, wrapped: bool) -> None:
    torch.manual_seed(1)
    classifier = timm.create_model("regnetx_002", num_classes=7).eval()
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    state = classifier.state_dict()
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "weights.pth")
    images = torch.rand(1, 3, 64, 64)
    for frozen_norm in (False, True):
        backbone = make("regnetx_002", str(tmp_path / "weights.pth"), frozen_norm=frozen_norm).eval()
        # Frozen norms compute the same in another order.
        torch.testing.assert_close(backbone(images)["c5"], classifier.forward_features(images), atol=1e-5, rtol=1e-4)
    del state["s4.b1.conv1.conv.weight"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"does not fit regnetx_002.*1 missing"):
        make("regnetx_002", str(tmp_path / "weights.pth"))


@pytest.mark.parametrize(("stages", "constant"), [(0, ()), (2, ("c2",)), (4, ("c2", "c3", "c4"))])
def test_frozen_stages_never_change(stages: int, constant: tuple[str, ...]) -> None:
    backbone, images = make("mobilenetv3_small_050", frozen_stages=stages).train(), torch.rand(2, 3, 64, 64)
    before = {level: x.detach() for level, x in backbone.eval()(images).items()}
    optimiser = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    sum(x.square().mean() for x in backbone.train()(images).values()).backward()
    optimiser.step()
    after = backbone.eval()(images)
    assert tuple(level for level in before if torch.equal(before[level], after[level])) == constant


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "vit_tiny_patch16_224"}, r"must have maps at strides 4, 8, 16 and 32.*\[16, 16, 16\]"),
        ({"name": "swin_tiny_patch4_window7_224"}, "must take images of any size"),
        ({"name": "convnxt_tiny"}, "must be a network of timm. Close to it: convnext_tiny"),
        ({"name": "hf-hub:somebody/network"}, "must be a network of timm"),
        ({"name": "regnetx_002", "frozen_stages": 1}, r"frozen_stages=1: must be 0, or 2 \(up to c2\)"),
        ({"name": "regnetx_002", "weights": "imagenet"}, "must be none or the path of a file"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused_in_a_sentence(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(**settings)  # type: ignore[arg-type]
