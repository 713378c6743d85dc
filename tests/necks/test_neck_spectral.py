"""The spectral radius that a neck offers to measure, on a G of which it is known."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor

from ifpn.csc import PyramidConv
from ifpn.necks import ImplicitFPN, MDEQNeck
from ifpn.necks.implicit import EquilibriumNeck
from ifpn.solvers import Equilibrium, Unroll
from tests.necks.cases import Turn, features


@pytest.mark.parametrize("radius", [0.4, 0.9, 1.7])
def test_of_a_known_g(radius: float) -> None:
    """A multiple of a rotation: every product grows by exactly the radius, up to rounding."""
    neck = ImplicitFPN([6, 8], 8, csc=lambda c, n: Turn(radius), residual_block=False, weight_norm=False)
    torch.testing.assert_close(
        neck.spectral_radius(features(batch=3), 9), torch.full((3,), radius, dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_is_the_growth_of_the_dominant_mode() -> None:
    """Against the largest eigenvalue of the dense Jacobian at P*; 60 products leave 2% of the other modes."""
    torch.manual_seed(0)
    neck = ImplicitFPN([6, 8], 4, extra_levels="none", solver=Equilibrium(test_evals=40)).double().eval()
    x = OrderedDict((name, level[:1].double()) for name, level in features(batch=3).items())
    b = [level.detach() for level in neck.projection(list(x.values()))]
    p = list(neck(x).values())
    sizes = [level.numel() for level in p]
    flat = torch.cat([level.detach().flatten() for level in p])

    def f(z: Tensor) -> Tensor:
        levels = [part.view_as(level) for part, level in zip(z.split(sizes), p, strict=True)]
        return torch.cat([level.flatten() for level in neck.step(levels, b)])

    dense = torch.autograd.functional.jacobian(f, flat)
    assert isinstance(dense, Tensor)
    exact = float(torch.linalg.eigvals(dense).abs().max())
    assert float(neck.spectral_radius(x, 60)) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(
    "neck",
    [
        ImplicitFPN([6, 8], 16, csc=lambda c, n: PyramidConv(c, n, ibn=True), dropout=0.5, jacobian_penalty=0.1),
        MDEQNeck([6, 8], 16, groups=2, dropout=0.5),
        ImplicitFPN([6, 8], 16, solver=Unroll(0)),
    ],
    ids=["implicit", "mdeq", "unroll"],
)
def test_leaves_nothing_behind(neck: EquilibriumNeck) -> None:
    neck.train()
    neck.g.get_submodule("csc" if isinstance(neck, ImplicitFPN) else "post").eval()  # a part that somebody froze
    outputs = neck(features(batch=3))
    stats, losses = neck.stats, dict(neck.auxiliary_losses)
    modes = [part.training for part in neck.modules()]
    state = {name: value.clone() for name, value in neck.state_dict().items()}
    random = torch.get_rng_state()
    radius = neck.spectral_radius(features(batch=3))
    assert radius.shape == (3,)
    assert bool((radius > 0).all())
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in neck.state_dict().items())
    assert [part.training for part in neck.modules()] == modes
    assert neck.stats is stats
    assert neck.auxiliary_losses == losses
    assert all(p.grad is None for p in neck.parameters())
    # The graph of the forward before it is still good.
    torch.stack([level.sum() for level in outputs.values()]).sum().backward()
