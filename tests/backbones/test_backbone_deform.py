"""Deformable convolution v2: exact where the mathematics says so."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ifpn.backbones import ModulatedDeformConv2d, resnet18, resnet50


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 12, 3, padding=1),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4, bias=False),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 4, 5, padding=2),
    ],
)
@pytest.mark.parametrize("size", [(7, 9), (1, 1)])
def test_starts_as_half_the_plain_convolution_and_reaches_it_with_an_open_mask(conv, size) -> None:
    deform = ModulatedDeformConv2d.from_conv(conv)
    x = torch.randn(2, 8, *size)
    bias = 0 if conv.bias is None else conv.bias[:, None, None]
    # no offset and mask 1/2: the same products in another order of summation
    torch.testing.assert_close(deform(x) - bias, (conv(x) - bias) / 2, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        deform.offset.bias[2 * deform.points :] = 40.0  # sigmoid(40) is 1 in fp32
    torch.testing.assert_close(deform(x), conv(x), rtol=1e-5, atol=1e-5)


def test_a_constant_offset_shifts_the_image() -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1)
    deform = ModulatedDeformConv2d.from_conv(conv)
    with torch.no_grad():
        deform.offset.bias[0 : 2 * deform.points : 2] = 1.0  # one row down
        deform.offset.bias[1 : 2 * deform.points : 2] = -2.0  # two columns left
        deform.offset.bias[2 * deform.points :] = 40.0
    x = torch.randn(1, 3, 12, 12)
    shifted = F.pad(x, (2, 0, 0, 1))[:, :, 1:, :12]
    inside = (..., slice(1, -3), slice(3, -1))  # away from the border, where zero padding enters
    torch.testing.assert_close(deform(x)[inside], conv(shifted)[inside], rtol=1e-5, atol=1e-5)


def test_offsets_and_mask_learn_from_the_start() -> None:
    deform = ModulatedDeformConv2d(4, 6)
    deform(torch.randn(2, 4, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in deform.parameters())


def test_works_under_autocast_and_returns_its_type() -> None:
    deform = ModulatedDeformConv2d(4, 6)
    x = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = deform(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), deform(x), rtol=2e-2, atol=2e-2)  # bf16 has 8 bits


def test_only_the_named_stages_change_and_weights_stay() -> None:
    torch.manual_seed(0)
    plain = resnet50("none", 0, True)
    torch.manual_seed(0)
    deform = resnet50("none", 0, True, deform_stages=["c4", "c5"])
    kinds = {name.split(".")[0] for name, module in deform.named_modules() if isinstance(module, ModulatedDeformConv2d)}
    assert kinds == {"layer3", "layer4"}
    assert sum(isinstance(m, ModulatedDeformConv2d) for m in deform.modules()) == 6 + 3
    extra = set(deform.state_dict()) - set(plain.state_dict())
    assert extra == {key for key in deform.state_dict() if ".offset." in key}
    images = torch.randn(1, 3, 64, 64)
    deform.load_state_dict(plain.state_dict(), strict=False)
    a, b = plain(images), deform(images)
    torch.testing.assert_close(a["c3"], b["c3"])
    assert not torch.allclose(a["c4"], b["c4"])


def test_wrong_levels_and_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"deform_stages=\['c6'\].*c2"):
        resnet50("none", 2, True, deform_stages=["c6"])
    with pytest.raises(TypeError):
        resnet18("none", 2, True, deform_stages=["c5"])  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="square"):
        ModulatedDeformConv2d.from_conv(nn.Conv2d(2, 2, (1, 3), padding=(0, 1)))
