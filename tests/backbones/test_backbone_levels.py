"""Sizes, strides, channel and parameter counts of the backbones, from their YAML files."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from ifpn.backbones import Stem, efficientnet_lite0, resnet18, resnet50, resnet101

CONF = Path(__file__).parents[2] / "conf" / "backbone"


def from_yaml(name: str) -> nn.Module:
    config = OmegaConf.load(CONF / f"{name}.yaml")
    config.weights = "none"
    if OmegaConf.is_missing(config, "name"):
        config.name = "mobilenetv3_small_050"
    backbone: nn.Module = instantiate(config)
    return backbone


def state_count(module: nn.Module, *names: str) -> int:
    """Convolution weights and batch norm affine values (which are buffers once frozen)."""
    return sum(
        value.numel()
        for key, value in module.state_dict().items()
        if "running_" not in key and key.startswith(names or "")
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_backbone_gives_its_stated_levels(name: str) -> None:
    backbone = from_yaml(name).train()
    out = backbone(torch.randn(1, 3, 64, 96))
    assert list(out) == ["c2", "c3", "c4", "c5"]
    for level, (channels, stride) in backbone.levels.items():
        assert out[level].shape == (1, channels, 64 // stride, 96 // stride)
        assert torch.isfinite(out[level]).all()
    assert [stride for _, stride in backbone.levels.values()] == [4, 8, 16, 32]
    assert len(backbone.image_mean) == len(backbone.image_std) == 3
    out["c5"].sum().backward()
    learned = [p for p in backbone.parameters() if p.requires_grad]
    assert learned
    assert all(p.grad is not None for p in learned)


@pytest.fixture(scope="module")
def small_backbones() -> list[nn.Module]:
    return [resnet18("none", 5, True), efficientnet_lite0("imagenet", 5, True)]


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 130), width=st.integers(1, 130))
def test_odd_sizes_round_up(small_backbones: list[nn.Module], height: int, width: int) -> None:
    for backbone in small_backbones:
        with torch.no_grad():
            out = backbone(torch.zeros(1, 3, height, width))
        for level, (_, stride) in backbone.levels.items():
            assert out[level].shape[2:] == (-(-height // stride), -(-width // stride))


def test_resnet50_counts() -> None:
    backbone = resnet50("none", 2, True)
    # published sizes of the body without classifier and of its frozen start (stem + first stage)
    assert state_count(backbone) == 23_508_032
    assert state_count(backbone, "conv1.", "bn1.", "layer1.") == 225_344
    trainable = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    affine_of_the_rest = sum(
        v.numel()
        for k, v in backbone.state_dict().items()
        if k.startswith(("layer2.", "layer3.", "layer4."))
        and ("bn" in k or "downsample.1" in k)
        and k.endswith(("weight", "bias"))
    )
    assert trainable == 23_508_032 - 225_344 - affine_of_the_rest


@pytest.mark.slow
def test_other_depths_count_as_published() -> None:
    assert state_count(resnet18("none", 2, True)) == 11_689_512 - 513_000  # torchvision's number less the classifier
    assert state_count(resnet101("none", 2, True)) == 44_549_160 - 2_049_000
    plain = {
        name: sum(
            value.numel()
            for key, value in from_yaml(name).state_dict().items()
            if "running_" not in key and ".offset." not in key
        )
        for name in ("resnext101_64x4d_dcn", "resnext152_32x8d_dcn")
    }
    assert plain["resnext101_64x4d_dcn"] == 83_455_272 - 2_049_000
    # 122.4 M with the classifier of 1000 classes
    assert round((plain["resnext152_32x8d_dcn"] + 2_049_000) / 1e6, 1) == 122.4


def test_the_stem_sees_as_far_as_it_says() -> None:
    """The gradient of one cell, in evaluation: 7 px of the image for c2, 15 for c3."""
    backbone = from_yaml("stem").eval()
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    for name, field in (("c2", 7), ("c3", 15), ("c4", 31), ("c5", 63)):
        level = backbone(image)[name]
        middle = level.shape[2] // 2
        (seen,) = torch.autograd.grad(level[..., middle, middle].abs().sum(), image)
        for axis in (2, 3):
            columns = seen.abs().amax(dim=[d for d in range(4) if d != axis]).nonzero().flatten()
            assert 0 < int(columns[-1] - columns[0]) + 1 <= field
    with pytest.raises(ValueError, match="must be none"):
        Stem(weights="imagenet")
