"""Coarse levels that move more often than the finest one: the same fixed point, for fewer multiply-adds each."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ifpn.csc import DenseFusion, PyramidConv
from ifpn.errors import UserError
from ifpn.necks import ImplicitFPN
from ifpn.solvers import Equilibrium, Picard, Unroll

CHANNELS = [6, 8, 8]


def features(side: int = 16) -> OrderedDict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return OrderedDict(
        (f"c{i + 3}", torch.randn(2, c, side >> i, side >> i, generator=generator, dtype=torch.float64))
        for i, c in enumerate(CHANNELS)
    )


def build(fine_every: int, **options: Any) -> ImplicitFPN:
    torch.manual_seed(0)
    solver = options.pop("solver", Equilibrium(train_evals=60, test_evals=60))
    neck = ImplicitFPN(CHANNELS, 16, fine_every=fine_every, solver=solver, extra_levels="none", **options)
    return neck.double()


@pytest.mark.parametrize("output_norm", [False, True])
@pytest.mark.parametrize("fine_every", [2, 3])
def test_the_fixed_point_and_its_gradient_are_the_same(fine_every: int, output_norm: bool) -> None:
    results = []
    for every in (1, fine_every):
        neck = build(every, output_norm=output_norm, dropout=0.2).train()
        torch.manual_seed(5)  # the same masks
        outputs = neck(features())
        torch.stack([level.square().sum() for level in outputs.values()]).sum().backward()
        results.append([*outputs.values(), *[p.grad for p in neck.parameters()]])
    for one, other in zip(*results, strict=True):
        assert float((one - other).detach().norm()) <= 1e-6 * float(one.detach().norm())


def test_one_evaluation_is_coarse_steps_and_one_of_all_levels() -> None:
    neck = build(3).eval()
    with torch.no_grad():
        b = neck.project(list(features().values()))
        p = [torch.randn_like(level) for level in b]
        expected = p
        for last in (False, False, True):
            out = neck.g([p_l + b_l for p_l, b_l in zip(expected, b, strict=True)])
            expected = out if last else [p[0], *out[1:]]
        for ours, theirs in zip(neck.step(p, b), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_a_coarse_step_costs_a_third_of_an_evaluation() -> None:
    """With five levels in units of 9 C^2 per cell of P3: R 2.67 + same 1.33 + finer 0.33 + coarser 0.33 = 4.67.

    Without the finest level 0.67 + 0.33 + 0.33 + 0.08 = 1.42. The small sizes are rounded up, hence 3 %.
    """
    macs = []
    for every in (1, 2):
        neck = ImplicitFPN(CHANNELS, 16, fine_every=every, solver=Equilibrium(Picard(), test_evals=1)).eval()
        counted: list[int] = []

        def count(conv: nn.Module, _: object, out: Tensor, counted: list[int] = counted) -> None:
            assert isinstance(conv, nn.Conv2d)
            counted.append(conv.weight.numel() * out.shape[2] * out.shape[3])

        for conv in [part for part in neck.g.modules() if isinstance(part, nn.Conv2d)]:
            conv.register_forward_hook(count)
        neck(OrderedDict((name, level.float()) for name, level in features(128).items()))
        macs.append(sum(counted))
    assert macs[1] / macs[0] == pytest.approx(1 + 1.42 / 4.67, rel=0.03)


def test_unrolled_steps_are_steps_of_all_levels() -> None:
    with torch.no_grad():
        one, other = (build(every, solver=Unroll(2)).eval()(features()) for every in (1, 3))
    assert all(torch.equal(other[name], level) for name, level in one.items())


@pytest.mark.parametrize("csc", [DenseFusion, lambda c, n: PyramidConv(c, n, ibn=True)])
def test_other_connections_are_refused(csc: Any) -> None:
    with pytest.raises(UserError, match=r"^fine_every=2: must be 1 with this csc"):
        build(2, csc=csc)
    with pytest.raises(UserError, match=r"^fine_every=2: must be 1 with neck.compile=true"):
        build(2, compile=True)
    with pytest.raises(UserError, match=r"^fine_every=0: must be a whole number from 1 to 8"):
        build(0)
