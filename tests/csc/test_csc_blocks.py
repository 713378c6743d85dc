"""Shapes, options and refusals of the cross-scale blocks."""

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ifpn.csc import BiFPNLayer, DeformableConv, DenseFusion, NASFPNCell, NoFusion, PyramidConv
from ifpn.layers.init import csc_std
from ifpn.layers.norm import norm_groups
from ifpn.layers.resize import max_pool_to

Csc = Callable[[int, int], nn.Module]
P = functools.partial
BLOCKS: dict[str, Csc] = {
    "pyramid": PyramidConv,
    "pyramid shared": P(PyramidConv, share=True),
    "pyramid ibn": P(PyramidConv, ibn=True),
    "pyramid deform": P(PyramidConv, deform=True),
    "pyramid shared deform": P(PyramidConv, share=True, deform=True),
    "dense": DenseFusion,
    "dense gn": P(DenseFusion, norm="gn", chain_act=True),
    "dense bn": P(DenseFusion, norm="bn"),
    "bifpn": BiFPNLayer,
    "bifpn full": P(BiFPNLayer, separable=False, norm="none"),
    "nasfpn": NASFPNCell,
    "nasfpn mm": P(NASFPNCell, attention="mm", norm="bn"),
    "none": NoFusion,
}


def pyramid(height: int, width: int, batch: int = 1, channels: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(height, width)]
    for _ in range(4):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return [torch.randn(batch, channels, h, w, generator=generator) for h, w in sizes]


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("size", [(100, 52), (25, 50), (16, 16), (9, 3)])
def test_odd_sizes_and_one_pixel_levels(name: str, size: tuple[int, int]) -> None:
    """100 -> 50 -> 25 -> 13 -> 7 and 16 -> 8 -> 4 -> 2 -> 1: shapes come out as they went in, all finite."""
    levels = pyramid(*size)
    torch.manual_seed(0)
    outputs = BLOCKS[name](16, 5).eval()(levels)
    assert [out.shape for out in outputs] == [level.shape for level in levels]
    assert all(torch.isfinite(out).all() for out in outputs)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(sorted(BLOCKS)))
def test_any_size(height: int, width: int, name: str) -> None:
    levels = pyramid(height, width, channels=8)
    outputs = BLOCKS[name](8, 5).eval()(levels)
    assert [out.shape for out in outputs] == [level.shape for level in levels]


@pytest.mark.parametrize("name", BLOCKS)
def test_images_of_a_batch_do_not_meet(name: str) -> None:
    """In evaluation, where BatchNorm has fixed statistics; 1e-5 is fp32 noise between batch sizes."""
    torch.manual_seed(0)
    block = BLOCKS[name](16, 5).eval()
    levels = pyramid(25, 14, batch=2)
    together = block(levels)
    alone = block([level[1:] for level in levels])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:], b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "none"])
def test_every_parameter_has_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    block = BLOCKS[name](16, 5)
    outputs = block(pyramid(20, 14, batch=2))
    sum(((out * torch.randn_like(out)).sum() for out in outputs), torch.zeros(())).backward()
    without = [name for name, p in block.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize(
    ("name", "seen"),
    [("pyramid", {0, 1, 2}), ("dense", {0, 1, 2, 3, 4}), ("none", {1}), ("bifpn", {0, 1, 2, 3, 4})],
)
def test_which_levels_reach_the_second(name: str, seen: set[int]) -> None:
    """Eq. 8 joins neighbours only, Fig. 4a everything."""
    torch.manual_seed(0)
    levels = [level.requires_grad_() for level in pyramid(32, 32)]
    BLOCKS[name](16, 5)(levels)[1].square().sum().backward()
    assert {i for i, level in enumerate(levels) if level.grad is not None and level.grad.any()} == seen


def test_deformable_kernels_start_plain_and_begin_at_p4() -> None:
    torch.manual_seed(0)
    block = PyramidConv(16, 5, deform=True)
    kinds = [isinstance(conv, DeformableConv) for conv in block.same]
    assert kinds == [False, True, True, True, True]
    plain = PyramidConv(16, 5)
    plain.load_state_dict({k: v for k, v in block.state_dict().items() if "offset" not in k})
    levels = pyramid(20, 14)
    for out, expected in zip(block(levels), plain(levels), strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_integrated_batch_norm_joins_the_levels() -> None:
    """Mean 0 and variance 1 over all pixels of all levels, and not within each level."""
    block = PyramidConv(16, 5, ibn=True).train()
    outputs = block([level * (i + 1) for i, level in enumerate(pyramid(20, 14, batch=2))])
    joined = torch.cat([out.flatten(2) for out in outputs], dim=2)
    torch.testing.assert_close(joined.mean(dim=(0, 2)), torch.zeros(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(joined.var(dim=(0, 2), correction=0), torch.ones(16), rtol=1e-3, atol=0)
    assert (outputs[0].var() - 1).abs() > 0.05


def test_pooling_rules_of_the_borders() -> None:
    """A row beyond the border is left out with -inf, and wins over negative values with 0."""
    x = -torch.arange(1.0, 4.0).view(1, 1, 3, 1)  # -1, -2, -3
    kept = max_pool_to(x, (2, 1), (2, 1), fill=-float("inf"))
    zeros = max_pool_to(x, (2, 1), (2, 1), fill=0.0)
    assert kept.flatten().tolist() == [-1.0, -3.0]
    assert zeros.flatten().tolist() == [-1.0, 0.0]


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_initial_gain_does_not_depend_on_the_width(channels: int) -> None:
    """The variance 9 C std^2 of a 3x3 sum is 0.23 at any width; 10 % is the spread of one seed."""
    torch.manual_seed(0)
    conv = PyramidConv(channels, 1).same[0]
    assert isinstance(conv, nn.Conv2d)
    assert csc_std(256) == pytest.approx(0.01)
    assert conv.weight.square().sum(dim=(1, 2, 3)).mean().item() == pytest.approx(2304e-4, rel=0.1)


@given(st.integers(1, 600))
def test_group_rule(channels: int) -> None:
    groups = norm_groups(channels)
    assert channels % groups == 0
    assert groups <= 32
    assert groups == 1 or channels // groups >= 8


def test_group_rule_keeps_the_known_numbers() -> None:
    assert [norm_groups(c) for c in (256, 512, 128, 64, 32, 16, 8)] == [32, 32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PyramidConv(0, 5), "^PyramidConv: channels=0: must be 1 or more"),
        (lambda: PyramidConv(16, 0), "num_levels=0: must be 1 or more"),
        (
            lambda: PyramidConv(16, 5, deform=True, deform_from=5),
            "^deform_from=5: must be the index of a level, 0 to 4",
        ),
        (lambda: DenseFusion(16, 5, norm="batch"), "^norm=batch: must be none, gn or bn"),
        (lambda: BiFPNLayer(16, 1), "num_levels=1: must be 2 or more"),
        (lambda: NASFPNCell(16, 4), "^csc=nasfpn: must be another one for 4 levels"),
        (lambda: NASFPNCell(16, 5, attention="max"), "^attention=max: must be tfnas or mm"),
        (lambda: PyramidConv(16, 4)(pyramid(16, 16)), "built for 4 levels, got 5"),
    ],
)
def test_refusals(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
