"""The policies a network holds, the YAML that builds them, and the measures of contraction."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from ifpn.config.paths import CONF
from ifpn.solvers import (
    GMRES,
    Anderson,
    Broyden,
    Equilibrium,
    Forward,
    Implicit,
    Neumann,
    Picard,
    Status,
    Unroll,
    Unrolled,
    fixed_point,
    jacobian_penalty,
    spectral_radius,
)

from .problems import F64, Counted, inputs, linear_map, matrix, tanh_map


def node(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed: DictConfig = compose("train", overrides=[f"solver={name}", *overrides]).solver
    return composed


def built(name: str) -> object:
    return instantiate(node(name))


def test_yaml_builds_what_the_names_say() -> None:
    assert built("anderson") == Equilibrium()  # the defaults for use without YAML are these
    paper = built("broyden")
    assert paper == Equilibrium(Broyden(), 15, 7, backward=Implicit(Broyden(), 15))
    assert built("unroll") == Unroll()
    cheap = Equilibrium(Anderson(4), 4, 4, 0.01, backward=Implicit(Neumann(), 2, 0.05), fit_start=32)
    assert built("cheap") == cheap
    assert built("two_step") == Equilibrium(Anderson(3), 3, 3, 0.01, backward=Unrolled(2))
    fast = built("fast")
    assert isinstance(fast, Equilibrium)
    assert fast.train_evals < Equilibrium().train_evals
    assert (fast.fit_start, fast.test_error) == (32, 0.1)
    assert (Forward().solver, Forward().max_evals) == (Anderson(), Equilibrium().train_evals)


def test_every_number_can_be_set_on_the_command_line() -> None:
    for name in ("broyden", "anderson", "fast"):
        numbers = ("solver.train_evals=3", "solver.test_evals=2", "solver.rtol=0.1", "solver.backward.max_vjps=4")
        policy = instantiate(node(name, *numbers))
        assert (policy.train_evals, policy.test_evals, policy.rtol, policy.backward.max_vjps) == (3, 2, 0.1, 4)


def test_training_chooses_the_budget_and_nothing_else() -> None:
    w, x = matrix(10, 0.5), inputs(2, 10).requires_grad_()
    policy = Equilibrium(Anderson(), train_evals=9, test_evals=4)
    for training, evals in ((True, 9), (False, 4)):
        f = Counted(tanh_map(w, x))
        z, stats = policy(f, torch.zeros_like(x), training=training)
        assert (f.plain, f.graded, stats.forward.evals) == (evals, 1, evals)
        assert z.requires_grad
        same, _ = fixed_point(f, torch.zeros_like(x), forward=Forward(Anderson(), evals))
        assert torch.equal(z, same)


@pytest.mark.parametrize("training", [True, False])
def test_unroll_is_plain_repetition(training: bool) -> None:
    w, x = matrix(10, 0.5).requires_grad_(), inputs(2, 10)
    f = tanh_map(w, x)
    z, stats = Unroll(3)(f, torch.zeros_like(x), training=training)
    expected = f(f(f(torch.zeros_like(x))))
    assert torch.equal(z, expected)
    torch.testing.assert_close(
        torch.autograd.grad(z.sum(), w)[0], torch.autograd.grad(expected.sum(), w)[0], rtol=1e-12, atol=1e-12
    )
    assert (stats.forward.evals, tuple(stats.forward.trace.shape)) == (3, (3, 2))
    assert stats.forward.status.tolist() == [Status.MAX_EVALS] * 2
    torch.testing.assert_close(stats.forward.trace[0], torch.ones(2, dtype=F64))  # from zero, everything is new


def test_unroll_zero_steps_returns_z0() -> None:
    z0 = torch.ones(2, 3)
    z, stats = Unroll(0)(torch.sin, z0, training=True)
    assert z is z0
    assert stats.forward.trace.shape == (0, 2)


def test_bad_budgets_are_refused_at_once() -> None:
    for bad in (
        lambda: Equilibrium(train_evals=0),
        lambda: Equilibrium(test_evals=-1),
        lambda: Equilibrium(rtol=-0.1),
        lambda: Equilibrium(train_evals=1.5),  # type: ignore[arg-type]
        lambda: Unroll(-1),
        lambda: Forward(Picard(), 0),
    ):
        with pytest.raises(ValueError, match="must"):
            bad()
    with pytest.raises(TypeError, match="Broyden"):
        Equilibrium(forward=GMRES())  # type: ignore[arg-type]


def test_spectral_radius_of_a_rotation_and_of_a_batch() -> None:
    # A complex pair: the Rayleigh quotient would give 0.7 cos 1.2 = 0.25.
    turn = 0.7 * torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64)
    c, s = torch.tensor(1.2, dtype=F64).cos(), torch.tensor(1.2, dtype=F64).sin()
    turn = turn @ torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
    rho = spectral_radius(linear_map(turn, torch.zeros(3, 2, dtype=F64)), torch.zeros(3, 2, dtype=F64), 30)
    torch.testing.assert_close(rho, torch.full((3,), 0.7, dtype=F64))
    gains = torch.tensor([[0.5], [1.5]])
    torch.testing.assert_close(
        spectral_radius(lambda z: gains * z, torch.zeros(2, 4), 5), gains[:, 0].double(), rtol=1e-6, atol=0
    )
    assert spectral_radius(torch.ones_like, torch.zeros(2, 4), 3).tolist() == [0, 0]


def test_spectral_radius_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    spectral_radius(torch.sin, torch.zeros(2, 4), 3)
    assert torch.equal(before, torch.get_rng_state())


def test_jacobian_penalty_is_the_frobenius_norm_and_can_be_trained() -> None:
    w = matrix(30, 0.9).requires_grad_()
    z = torch.zeros(4000, 30, dtype=F64, requires_grad=True)
    penalty = jacobian_penalty(z @ w.T, z)
    # The mean over 4000 random vectors of |Wᵀv|² / 30: relative error about sqrt(2 / (30 · 4000)) = 0.4%.
    torch.testing.assert_close(penalty.detach(), w.detach().square().sum() / 30, rtol=0.03, atol=0)
    (grad,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(grad, 2 * w.detach() / 30, rtol=0.3, atol=0.02)
    with pytest.raises(ValueError, match="requires_grad"):
        jacobian_penalty(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match="does not depend"):
        jacobian_penalty(w.sum()[None], z)


@pytest.mark.parametrize(("contraction", "evals"), [(0.1, 1), (0.5, 2), (1.0, 3), (None, 5)])
def test_with_a_known_contraction_the_search_stops_by_the_error(contraction: float | None, evals: int) -> None:
    """f(z) = z / 2 + b from 1.4 b: residuals 0.176, 0.081, 0.039; z* = 2 b, and |f(z) - z*| = |f(z) - z|."""
    solver = Equilibrium(Picard(), test_evals=5, test_error=0.05)
    b = torch.ones(1, 3, dtype=F64)
    with torch.no_grad():
        value, stats = solver(lambda z: z / 2 + b, 1.4 * b, training=False, contraction=contraction)
    assert stats.forward.evals == evals
    if contraction == 1.0:  # which is the truth
        assert float((value - 2 * b).norm() / value.norm()) < 0.05
    _, stats = solver(lambda z: z / 2 + b, 1.4 * b, training=True, contraction=contraction)
    assert stats.forward.evals == solver.train_evals  # in training it means nothing
