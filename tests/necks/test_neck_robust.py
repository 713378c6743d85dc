"""The implicit necks where one image fails, and where a part of G is recomputed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ifpn.necks import ImplicitFPN
from ifpn.solvers import Equilibrium, Implicit, OneStep, Phantom, Status, Unroll, Unrolled


def features(*scales: float) -> OrderedDict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = [(6, 8), (8, 4)]
    base = [torch.randn(1, c, side, side, generator=generator).expand(len(scales), -1, -1, -1) for c, side in sizes]
    factor = torch.tensor(scales)[:, None, None, None]
    return OrderedDict((f"c{i + 3}", level * factor) for i, level in enumerate(base))


def small(solver: Any = None, **options: Any) -> ImplicitFPN:
    torch.manual_seed(0)
    return ImplicitFPN([6, 8], 16, extra_levels="none", **{"dropout": 0.0, "solver": solver, **options})


SOLVERS = [Equilibrium(backward=how) for how in (Implicit(), OneStep(), Unrolled(2), Phantom(2, 0.5))] + [Unroll(2)]


@pytest.mark.parametrize("solver", SOLVERS, ids=["implicit", "one step", "unrolled", "phantom", "unroll"])
@pytest.mark.parametrize("bad", [1e38, torch.nan])  # B overflows; the features fail themselves
@pytest.mark.slow
def test_an_image_that_fails_does_not_touch_the_weights(solver: Any, bad: float) -> None:
    neck = small(solver, input_norm=True, jacobian_penalty=0.1)

    def gradients(*scales: float) -> dict[str, Tensor]:
        neck.zero_grad()
        sum(level[0].square().sum() for level in neck(features(*scales)).values()).backward()
        assert neck.stats is not None
        assert (neck.stats.forward.status == Status.NONFINITE).tolist() == [s != 1 for s in scales]
        return {name: p.grad.clone() for name, p in neck.named_parameters() if p.grad is not None}

    found, expected = gradients(1.0, bad), gradients(1.0)
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        # float32 through a solve, in a batch of two and of one
        assert bool(torch.isfinite(found[name]).all())
        assert float((found[name] - grad).norm()) <= 1e-3 * float(grad.norm()) + 1e-6, name
    neck(features(1.0, bad))
    assert bool(torch.isfinite(neck.auxiliary_losses.get("jacobian", torch.zeros(()))))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of the search, which needs none
@pytest.mark.parametrize("solver", [SOLVERS[0], SOLVERS[2], SOLVERS[4]], ids=["implicit", "unrolled", "unroll"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recomputing_a_part_of_g_is_right_or_refused(solver: Any, reentrant: bool, dropout: float) -> None:
    neck = small(solver, dropout=dropout, weight_norm=False)
    block = neck.g.residual[0]
    own = block.forward

    def gradient() -> Tensor:
        neck.zero_grad()
        torch.manual_seed(1)
        x = OrderedDict((name, level.requires_grad_()) for name, level in features(1.0, 0.5).items())
        sum(level.square().sum() for level in neck(x).values()).backward()
        return torch.cat([p.grad.flatten() for p in neck.parameters() if p.grad is not None])

    expected = gradient()
    block.forward = lambda z: checkpoint(own, z, use_reentrant=reentrant)
    implicit = isinstance(solver, Equilibrium) and isinstance(solver.backward, Implicit)
    if dropout > 0 or (reentrant and implicit):
        with pytest.raises(RuntimeError, match=r"variational dropout was recomputed|use_reentrant=True"):
            gradient()
    else:
        torch.testing.assert_close(gradient(), expected)


@pytest.mark.parametrize("add_input", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_levels_can_be_changed_in_place(batch: int, add_input: bool) -> None:
    """As a head that begins with ReLU(inplace=True) does; a view of the state would refuse, or change the others."""
    neck = ImplicitFPN([6, 8], 8, add_input=add_input)
    for training in (True, False):
        levels = list(neck.train(training)(features(*(1.0, 2.0)[:batch])).values())
        others = [level.detach().clone() for level in levels[1:]]
        torch.relu_(levels[0]).sum().backward()
        assert all(torch.equal(a, b) for a, b in zip(levels[1:], others, strict=True))
