"""The explicit twins of i-FPN: the same G with own weights, and an FPN with G's residual block."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ifpn.csc import DenseFusion, NoFusion
from ifpn.necks import FPN, ImplicitFPN, Neck, StackedFPN
from ifpn.solvers import Unroll
from tests.necks import cases

CHANNELS = [8, 12, 16]
# 25 -> 13 -> 7 rows; P6 and P7 have 4 and 2.
features = partial(cases.features, CHANNELS, [(25, 10), (13, 5), (7, 3)], seed=1)
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "stabilised": {"output_norm": True, "input_norm": True, "add_input": True},
    "dense without weight norm": {"csc": DenseFusion, "weight_norm": False, "dropout": 0.3},
    "no residual block": {"residual_block": False, "input_norm": True},
    "no connection": {"csc": NoFusion, "add_input": True},
}


def bits(neck: Neck, bf16: bool) -> list[Tensor]:
    """Outputs and all gradients of a training forward, then the outputs in evaluation."""
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        outputs = list(neck.train()(features()).values())
        torch.stack([(out * out).sum() for out in outputs]).sum().backward()
        gradients = [p.grad for p in neck.parameters() if p.grad is not None]
        return [*outputs, *gradients, *neck.eval()(features()).values()]


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_stack_of_one_g_is_one_unrolled_step(options: dict[str, Any], bf16: bool) -> None:
    """Also of the same seed: the weights are drawn in the same order."""
    torch.manual_seed(0)
    stack = StackedFPN(CHANNELS, 16, inject=True, repeats=1, **options)
    torch.manual_seed(0)
    unrolled = ImplicitFPN(CHANNELS, 16, solver=Unroll(1), **options)
    one, other = bits(stack, bf16), bits(unrolled, bf16)
    assert len(one) == len(other) > 15
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_stack_of_equal_blocks_is_the_unrolled_g(options: dict[str, Any]) -> None:
    """B enters before every block: three copies of one G are three steps of it."""
    unrolled = ImplicitFPN(CHANNELS, 16, solver=Unroll(3), **options).eval()
    stack = StackedFPN(CHANNELS, 16, inject=True, repeats=3, **options).eval()
    state = unrolled.state_dict()
    state |= {f"blocks.{t}.{k[2:]}": v for t in range(3) for k, v in state.items() if k.startswith("g.")}
    stack.load_state_dict({k: v for k, v in state.items() if not k.startswith("g.")})
    expected = unrolled(features())
    for name, level in stack(features()).items():
        assert torch.equal(level, expected[name])


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_residual_block_of_an_fpn_is_that_of_g() -> None:
    """Two 3x3 convolutions of C^2 weights with C gains each, two GroupNorms of 2 C, on each of five levels."""
    plain, larger = FPN(CHANNELS, 16), FPN(CHANNELS, 16, residual_block=True)
    assert parameters(larger) - parameters(plain) == 5 * (2 * (9 * 16**2 + 16) + 2 * 2 * 16)
    g = ImplicitFPN(CHANNELS, 16).g
    assert larger.residual is not None
    names = [name.removeprefix("residual.") for name in g.state_dict() if name.startswith("residual.")]
    assert list(larger.residual.state_dict()) == names
    larger.load_state_dict(plain.state_dict(), strict=False)
    larger.residual.load_state_dict({name: g.state_dict()[f"residual.{name}"] for name in names})
    before, after = plain.eval()(features()), larger.eval()(features())
    for (name, level), block in zip(before.items(), g.eval().get_submodule("residual"), strict=True):  # type: ignore[arg-type]
        assert torch.equal(after[name], block(level))


def test_without_the_switches_the_states_are_those_of_before() -> None:
    assert not [name for name in FPN(CHANNELS, 16).state_dict() if not name.startswith(("fpn.", "extra."))]
    names = [name for name in StackedFPN(CHANNELS, 16, repeats=1).state_dict() if name.startswith("blocks.")]
    assert names
    assert not [name for name in names if "residual" in name or "parametrizations" in name]
