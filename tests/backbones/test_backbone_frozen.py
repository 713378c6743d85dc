"""What is frozen stays frozen, and freezing changes no number."""

import pytest
import torch
from torch import nn

from ifpn.backbones import FrozenBatchNorm2d, efficientnet_lite0, freeze_norms, resnet18, resnet50
from ifpn.backbones.frozen import freeze_stages


def trained_norm(channels: int = 6) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    with torch.no_grad():
        for tensor in (norm.weight, norm.running_var):
            tensor.uniform_(0.5, 2)
        for tensor in (norm.bias, norm.running_mean):
            tensor.normal_()
    return norm.eval()


@pytest.mark.parametrize("wants_grad", [False, True])
def test_frozen_norm_equals_batch_norm_in_eval_mode(wants_grad: bool) -> None:
    norm = trained_norm()
    frozen = FrozenBatchNorm2d.from_batch_norm(norm).train()
    x = torch.randn(2, 6, 5, 7)
    a, b = x.clone().requires_grad_(wants_grad), x.clone().requires_grad_(wants_grad)
    # both are one multiply-add in fp32: agreement to a few units in the last place
    torch.testing.assert_close(frozen(a), norm(b), rtol=1e-5, atol=1e-5)
    if wants_grad:
        weights = torch.randn_like(x)
        (frozen(a) * weights).sum().backward()
        (norm(b) * weights).sum().backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)


def test_frozen_norm_keeps_low_precision_inputs_in_their_type() -> None:
    frozen = FrozenBatchNorm2d.from_batch_norm(trained_norm())
    x = torch.randn(1, 6, 4, 4)
    for wants_grad in (False, True):
        out = frozen(x.bfloat16().requires_grad_(wants_grad))
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), frozen(x), rtol=2e-2, atol=2e-2)  # bf16 has 8 bits


def test_freeze_norms_keeps_the_function_of_a_network_with_norm_activations() -> None:
    backbone = efficientnet_lite0("imagenet", frozen_stages=0, frozen_norm=False).eval()
    images = torch.randn(1, 3, 64, 64)
    before = backbone(images)
    freeze_norms(backbone)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    for name, level in backbone(images).items():
        torch.testing.assert_close(level, before[name], rtol=1e-4, atol=1e-4)  # 60 layers of fp32 rounding


def test_norms_without_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match="track_running_stats"):
        freeze_norms(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))


def one_step(backbone: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)
    backbone.train()
    sum(level.abs().mean() for level in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()
    return before, backbone.state_dict()


@pytest.mark.parametrize(
    ("backbone", "frozen_prefixes"),
    [
        (lambda: resnet18("none", 2, True), ("conv1.", "bn1.", "layer1.")),
        (lambda: resnet18("none", 3, False), ("conv1.", "bn1.", "layer1.", "layer2.")),
        (
            lambda: efficientnet_lite0("imagenet", 2, True),
            ("body.conv_stem.", "body.bn1.", "body.blocks.0.", "body.blocks.1."),
        ),
        (lambda: efficientnet_lite0("imagenet", 1, False), ("body.conv_stem.", "body.bn1.")),
    ],
)
def test_a_training_step_leaves_the_frozen_part_untouched_and_moves_the_rest(backbone, frozen_prefixes) -> None:
    backbone = backbone()
    before, after = one_step(backbone)
    frozen_norms = {
        f"{name}.{key}"
        for name, module in backbone.named_modules()
        if isinstance(module, FrozenBatchNorm2d)
        for key in module.state_dict()
    }
    for key, value in after.items():
        constant = key.startswith(frozen_prefixes) or key in frozen_norms
        assert torch.equal(value, before[key]) == constant, key
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen_prefixes), name


def test_frozen_norm_leaves_no_trainable_norm() -> None:
    backbone = resnet50("none", 0, True)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.train().modules())
    assert all(".bn" not in name for name, _ in backbone.named_parameters())


@pytest.mark.parametrize("count", [-1, 6, 2.0, True, "2"])
def test_frozen_stages_outside_the_allowed_set_are_refused(count: object) -> None:
    with pytest.raises(ValueError, match="frozen_stages=") as caught:
        freeze_stages(nn.Sequential(), [[], [], [], [], []], count)  # type: ignore[arg-type]
    assert repr(count) in str(caught.value)
