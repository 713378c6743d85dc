"""What a careless caller passes: wrong objects, hopeless maps, gradients that are not finite."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from ifpn.solvers import (
    GMRES,
    Anderson,
    Broyden,
    Equilibrium,
    Forward,
    Implicit,
    Neumann,
    OneStep,
    Phantom,
    Picard,
    Status,
    Unrolled,
    fixed_point,
    solve,
    spectral_radius,
)
from ifpn.solvers.adjoint import LinearSolver
from ifpn.solvers.fixed_point import Backward

from .problems import F64, inputs, matrix, tanh_map

RULES = [Broyden(), Broyden(0.5), Anderson(), Anderson(1), Anderson(20), Picard(0.5)]
rules = pytest.mark.parametrize("rule", RULES, ids=repr)


@rules
@pytest.mark.parametrize("evals", [1, 2, 3])
def test_the_smallest_budgets(rule: Broyden | Anderson | Picard, evals: int) -> None:
    found = solve(lambda z: 0.5 * z + 1, torch.zeros(2, 3), rule, max_evals=evals)
    assert (found.evals, found.trace.shape) == (evals, (evals, 2))
    assert bool(torch.isfinite(found.value).all())


@rules
@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (0,), (1, 1), (2, 1, 1, 1)])
def test_empty_and_single(rule: Broyden | Anderson | Picard, shape: tuple[int, ...]) -> None:
    found = solve(lambda z: 0.5 * z + 1, torch.zeros(shape), rule, max_evals=40, rtol=1e-3)
    assert found.value.shape == shape
    assert found.residual.shape == shape[:1]
    assert bool((found.residual <= 1e-3).all())


@rules
def test_memory_orders_other_than_the_usual(rule: Broyden | Anderson | Picard) -> None:
    for z0 in (torch.zeros(4, 2).t(), torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)):
        found = solve(lambda z: 0.5 * z + 1, z0, rule, max_evals=40)
        torch.testing.assert_close(found.value, torch.full(z0.shape, 2.0), rtol=1e-4, atol=1e-4)


@rules
def test_hopeless_maps(rule: Broyden | Anderson | Picard) -> None:
    start = torch.ones(2, 3)
    never = solve(lambda z: torch.full_like(z, torch.nan), start, rule, max_evals=5)
    assert never.status.tolist() == [Status.NONFINITE] * 2
    assert torch.equal(never.value, start)
    at_once = solve(lambda z: z, start, rule, max_evals=5)  # its own argument, not a copy
    assert at_once.status.tolist() == [Status.CONVERGED] * 2
    assert torch.equal(at_once.value, start)
    zero = solve(torch.zeros_like, torch.zeros(2, 3), rule, max_evals=5)
    assert zero.status.tolist() == [Status.CONVERGED] * 2
    for f in (lambda z: 3 * z + 1e30, lambda z: 1e30 * z + 1):
        assert bool(torch.isfinite(solve(f, torch.zeros(2, 3), rule, max_evals=20).value).all())


@pytest.mark.parametrize("solver", [GMRES(), Neumann(), Broyden(), Anderson()], ids=repr)
def test_a_gradient_that_is_not_finite_passes_and_is_told(solver: LinearSolver) -> None:
    """As with a loss scaler in half precision: no error, no silent zero, and the other sample is sound."""
    w, x = matrix(4, 0.5), inputs(2, 4).requires_grad_()
    for bad in (torch.nan, torch.inf):
        y, stats = fixed_point(tanh_map(w, x), torch.zeros(2, 4, dtype=F64), backward=Implicit(solver, 6))
        g = torch.ones_like(y)
        g[0, 0] = bad
        (grad,) = torch.autograd.grad(y, x, g)
        assert not bool(torch.isfinite(grad[0]).all())
        assert stats.backward is not None
        assert stats.backward.status[0] == Status.NONFINITE
        y, _ = fixed_point(tanh_map(w, x), torch.zeros(2, 4, dtype=F64), backward=Implicit(solver, 6))
        assert torch.equal(grad[1], torch.autograd.grad(y, x, torch.ones_like(y))[0][1])


BACKWARDS: list[Backward] = [Implicit(), Unrolled(2), Phantom(2, 0.5), OneStep()]


@pytest.mark.parametrize("how", BACKWARDS, ids=repr)
def test_every_gradient_survives_an_empty_batch_a_zero_cotangent_and_a_second_call(how: Backward) -> None:
    w, x = matrix(3, 0.5).requires_grad_(), inputs(2, 3)
    for rows in (0, 2):
        y, _ = fixed_point(tanh_map(w, x[:rows]), torch.zeros(rows, 3, dtype=F64), backward=how)
        (zero,) = torch.autograd.grad(y, w, torch.zeros_like(y), retain_graph=True)
        assert torch.equal(zero, torch.zeros_like(w))
        first = torch.autograd.grad(y.sum(), w, retain_graph=True)[0]
        assert torch.equal(first, torch.autograd.grad(y.sum(), w)[0])


def test_stats_can_be_copied_and_stored() -> None:
    w, x = matrix(3, 0.5).requires_grad_(), inputs(2, 3)
    y, stats = fixed_point(tanh_map(w, x), torch.zeros(2, 3, dtype=F64))
    y.sum().backward()
    for twin in (copy.deepcopy(stats), pickle.loads(pickle.dumps(stats))):
        assert twin.backward is not None
        assert torch.equal(twin.forward.trace, stats.forward.trace)


def test_no_gradient_reaches_the_start() -> None:
    z0, x = inputs(2, 3).requires_grad_(), inputs(2, 3)
    y, _ = fixed_point(tanh_map(matrix(3, 0.5).requires_grad_(), x), z0)
    y.sum().backward()
    assert z0.grad is None


def test_spectral_radius_whatever_the_grad_mode() -> None:
    for mode in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with mode:
            radius = spectral_radius(lambda z: 0.5 * z, torch.ones(2, 3), 4)
            torch.testing.assert_close(radius, torch.full((2,), 0.5, dtype=F64))


def test_wrong_objects_are_named() -> None:
    z0 = torch.zeros(1, 2)
    wrong: object
    for wrong in (Broyden, "broyden", GMRES(), None):
        with pytest.raises(TypeError, match=r"must be Broyden\(\), Anderson\(\) or Picard\(\)"):
            solve(torch.sin, z0, wrong, max_evals=3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"must be Broyden\(\), Anderson\(\) or Picard\(\)"):
            Forward(wrong, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"forward must be Forward\(solver, max_evals\)"):
        fixed_point(torch.sin, z0, forward=Broyden())  # type: ignore[arg-type]
    for wrong in (Implicit, "implicit", GMRES()):
        with pytest.raises(TypeError, match=r"backward must be Implicit\(solver, max_vjps\)"):
            fixed_point(torch.sin, z0, backward=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"backward must be Implicit\(solver, max_vjps\)"):
            Equilibrium(backward=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"m=2\.5: must be a whole number from 1 to"):
        Anderson(2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha=nan: must be a number above 0 and at most 1"):
        Broyden(float("nan"))
