"""The search: correct steps, exact budgets, best state, faults, independence of the batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import broyden1
from torch import Tensor

from ifpn.solvers import Anderson, Broyden, Picard, Status, solve
from ifpn.solvers.step_rule import StepRule

from .problems import F64, Counted, inputs, linear_map, matrix, tanh_map

RULES: list[StepRule] = [
    Broyden(),
    Broyden(0.6),
    Broyden(memory=4),
    Anderson(5),
    Anderson(3, 0.6),
    Picard(),
    Picard(0.6),
]
rules = pytest.mark.parametrize("rule", RULES, ids=repr)


def relative(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Residual per sample, computed independently of the solver."""
    fz = f(z)
    return (fz - z).flatten(1).norm(dim=1) / fz.flatten(1).norm(dim=1)


def test_broyden_iterates_are_scipys() -> None:
    f = tanh_map(matrix(60, 0.9), inputs(1, 60))
    ours: list[Tensor] = []

    def spy(z: Tensor) -> Tensor:
        ours.append(z.clone())
        return f(z)

    solve(spy, torch.zeros(1, 60, dtype=F64), Broyden(), max_evals=16)
    scipys: list[Tensor] = []
    broyden1(
        lambda z: (f(torch.from_numpy(z)[None])[0] - torch.from_numpy(z)).numpy(),
        torch.zeros(60, dtype=F64).numpy(),
        iter=15,
        # SciPy's alpha is its first guess of -1/J; g = f - z has J = -1 there.
        alpha=1,
        line_search=None,
        max_rank=float("inf"),
        callback=lambda z, g: scipys.append(torch.from_numpy(z.copy())),
    )
    assert len(ours) == 16
    # Both in float64, the same algorithm in different association: rounding only.
    assert max(float((a[0] - b).abs().max()) for a, b in zip(ours[1:], scipys, strict=True)) <= 1e-12


def textbook_broyden(f: Callable[[Tensor], Tensor], z: Tensor, alpha: float, steps: int) -> list[Tensor]:
    """Broyden's good method with a dense inverse Jacobian, one sample (n,)."""
    h, g = -torch.eye(len(z), dtype=z.dtype), f(z[None])[0] - z
    states = [z]
    for _ in range(steps):
        s = -alpha * h @ g
        z = z + s
        new = f(z[None])[0] - z
        y, g = new - g, new
        h = h + torch.outer(s - h @ y, s @ h) / (s @ h @ y)
        states.append(z)
    return states


@pytest.mark.parametrize("alpha", [1.0, 0.8, 0.5])
def test_damped_broyden_is_the_dense_method(alpha: float) -> None:
    f = tanh_map(matrix(40, 0.9), inputs(1, 40))
    seen: list[Tensor] = []
    solve(
        lambda z: (seen.append(z.clone()), f(z))[1],
        torch.zeros(1, 40, dtype=F64),
        Broyden(alpha),
        max_evals=13,
    )
    dense = textbook_broyden(f, torch.zeros(40, dtype=F64), alpha, 12)
    assert max(float((a[0] - b).abs().max()) for a, b in zip(seen, dense, strict=True)) <= 1e-12


def test_broyden_finds_newtons_root() -> None:
    w, x = matrix(60, 0.9), inputs(1, 60)
    z = torch.zeros(1, 60, dtype=F64)
    for _ in range(30):
        fz = torch.tanh(z @ w.T + x)
        jacobian = torch.eye(60, dtype=F64) - (1 - fz[0] ** 2)[:, None] * w
        z = z + torch.linalg.solve(jacobian, (fz - z)[0])[None]
    found = solve(tanh_map(w, x), torch.zeros_like(z), Broyden(memory=60), max_evals=60)
    assert float((found.value - z).norm()) <= 1e-12


def test_anderson_solves_a_linear_problem_in_its_dimension() -> None:
    f = linear_map(matrix(8, 0.9), inputs(2, 8))
    found = solve(f, torch.zeros(2, 8, dtype=F64), Anderson(9), max_evals=10)
    assert float(found.residual.max()) <= 1e-10


@rules
def test_every_rule_converges_on_a_contraction(rule: Broyden | Anderson | Picard) -> None:
    f = tanh_map(matrix(50, 0.5), inputs(3, 50))
    found = solve(f, torch.zeros(3, 50, dtype=F64), rule, max_evals=200, rtol=1e-10)
    assert found.status.tolist() == [Status.CONVERGED] * 3
    assert float(relative(f, found.value).max()) <= 1e-10
    assert found.evals < 200


@rules
def test_the_budget_is_exact_and_the_report_true(rule: Broyden | Anderson | Picard) -> None:
    f = Counted(tanh_map(matrix(30, 0.9), inputs(4, 30)))
    found = solve(f, torch.zeros(4, 30, dtype=F64), rule, max_evals=11)
    assert (f.plain, f.graded, found.evals) == (11, 0, 11)
    assert found.trace.shape == (11, 4)
    samples = torch.arange(4)
    assert torch.equal(found.trace[found.best_eval, samples], found.residual)
    assert torch.equal(found.trace.min(dim=0).values, found.residual)
    torch.testing.assert_close(relative(f.f, found.value), found.residual, rtol=1e-6, atol=0)


@rules
@given(rho=st.floats(0.2, 1.5), seed=st.integers(0, 1000), evals=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_never_worse_than_any_state_seen(rule: Broyden | Anderson | Picard, rho: float, seed: int, evals: int) -> None:
    f = linear_map(matrix(20, rho, seed), inputs(3, 20, seed))
    z0 = inputs(3, 20, seed + 1)
    found = solve(f, z0, rule, max_evals=evals)
    assert bool((found.residual <= found.trace.min(dim=0).values).all())
    assert bool((relative(f, found.value) <= relative(f, z0) * (1 + 1e-9)).all())


@rules
def test_a_fault_costs_only_its_sample(rule: Broyden | Anderson | Picard) -> None:
    f = tanh_map(matrix(30, 0.9), inputs(2, 30))

    def faulty(at: int) -> Callable[[Tensor], Tensor]:
        calls = 0

        def call(z: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            assert bool(torch.isfinite(z).all()), "f is never given a non-finite state"
            out = f(z)
            if calls >= at:
                out[0] = torch.nan
            return out

        return call

    z0 = torch.zeros(2, 30, dtype=F64)
    sound = solve(f, z0, rule, max_evals=12)
    found = solve(faulty(6), z0, rule, max_evals=12)
    assert bool(torch.isfinite(found.value).all())
    assert found.status[0] == Status.NONFINITE
    assert found.residual[0] == sound.trace[:5, 0].min()
    assert torch.isinf(found.trace[5, 0])
    assert torch.equal(found.value[1], sound.value[1])
    assert found.status[1] == sound.status[1]


def test_a_fault_in_the_first_evaluation_keeps_z0() -> None:
    z0 = torch.full((2, 3), 2.0)
    found = solve(lambda z: torch.where(torch.arange(2)[:, None] == 0, torch.inf, 0.5 * z), z0, Broyden(), max_evals=5)
    assert found.status[0] == Status.NONFINITE
    assert torch.equal(found.value[0], z0[0])
    assert torch.isinf(found.residual[0])
    assert bool(torch.isfinite(found.residual[1]))


def test_a_nonfinite_start_is_refused() -> None:
    z0 = torch.zeros(3, 2)
    z0[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"sample\(s\) \[1\]"):
        solve(torch.sin, z0, Picard(), max_evals=3)


@rules
@pytest.mark.parametrize("rtol", [0.0, 1e-3])
def test_batch_mates_do_not_matter(rule: Broyden | Anderson | Picard, rtol: float) -> None:
    w = matrix(40, 0.8).float()
    x = inputs(3, 40).float() * torch.tensor([1.0, 20.0, 3.0])[:, None]

    def run(rows: list[int]) -> Tensor:
        f = linear_map(w, x[rows])
        return solve(f, torch.zeros(len(rows), 40), rule, max_evals=12, rtol=rtol).value

    together, alone, turned = run([0, 1, 2]), run([0]), run([2, 0, 1])
    # float32 rounding of differently batched matrix products, carried through 12 steps.
    assert float((together[0] - alone[0]).norm() / alone[0].norm()) <= 1e-5
    assert float((together[[2, 0, 1]] - turned).norm() / turned.norm()) <= 1e-5


@rules
def test_the_scale_of_the_state_does_not_matter(rule: Broyden | Anderson | Picard) -> None:
    w, x = matrix(30, 0.9), inputs(2, 30)
    big = solve(linear_map(w, x), torch.zeros_like(x), rule, max_evals=10)
    tiny = solve(linear_map(w, 1e-12 * x), torch.zeros_like(x), rule, max_evals=10)
    torch.testing.assert_close(1e12 * tiny.value, big.value, rtol=1e-6, atol=1e-9)


def test_a_finished_sample_is_frozen() -> None:
    # Sample 0 is at its root from the start; sample 1 is not. Broyden would divide by zero in sample 0.
    w = matrix(10, 0.9)
    x = inputs(2, 10)
    x[0] = 0
    for rule in RULES:
        found = solve(linear_map(w, x), torch.zeros_like(x), rule, max_evals=8)
        assert found.status[0] == Status.CONVERGED
        assert torch.equal(found.value[0], x[0])
        assert bool(torch.isfinite(found.value).all())


def test_stagnation_is_told_from_an_exhausted_budget() -> None:
    expanding = solve(lambda z: 1.5 * z + 1, torch.ones(1, 4), Picard(0.5), max_evals=10)
    contracting = solve(lambda z: 0.9 * z + 1, torch.ones(1, 4), Picard(), max_evals=10)
    assert contracting.status.tolist() == [Status.MAX_EVALS]
    circling = solve(lambda z: -z + 1, torch.ones(1, 4), Picard(), max_evals=10)
    assert circling.status.tolist() == [Status.STAGNATED]
    assert bool(torch.isfinite(expanding.value).all())
    assert all(status.meaning for status in Status)


def test_z0_is_only_read() -> None:
    z0 = inputs(2, 6)
    before = z0.clone()
    for rule in RULES:
        found = solve(lambda z: 2 * z + 1, z0, rule, max_evals=6)
        assert torch.equal(z0, before)
        assert found.value.data_ptr() != z0.data_ptr()


def test_an_output_f_keeps_is_only_read() -> None:
    constant = inputs(2, 6)
    before = constant.clone()
    for rule in RULES:
        found = solve(lambda z: constant, torch.zeros_like(constant), rule, max_evals=20, rtol=1e-12)
        assert torch.equal(constant, before)
        torch.testing.assert_close(found.value, constant)


def test_half_precision_is_solved_in_float32() -> None:
    seen = Counted(lambda z: (0.5 * z + 1).bfloat16())
    found = solve(seen, torch.zeros(2, 8, dtype=torch.bfloat16), Anderson(), max_evals=6)
    assert found.value.dtype == torch.float32
    assert set(seen.seen) == {torch.bfloat16}


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 4, 5), (0, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    for rule in RULES:
        found = solve(lambda z: 0.5 * z + 1, torch.zeros(shape), rule, max_evals=80)
        torch.testing.assert_close(found.value, torch.full(shape, 2.0))
        assert found.residual.shape == shape[:1]


def test_a_broadcast_start_is_taken() -> None:
    z0 = torch.zeros(1, 1, 1).expand(2, 3, 4)
    torch.testing.assert_close(
        solve(lambda z: 0.5 * z + 1, z0, Broyden(), max_evals=30).value, torch.full((2, 3, 4), 2.0)
    )


def test_own_arithmetic_is_not_rounded_by_autocast() -> None:
    f = tanh_map(matrix(40, 0.9).float(), inputs(2, 40).float())

    def exact(z: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return f(z)

    for rule in RULES:
        plain = solve(f, torch.zeros(2, 40), rule, max_evals=10)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = solve(exact, torch.zeros(2, 40), rule, max_evals=10)
        assert torch.equal(plain.value, cast.value)


def test_mistakes_are_named() -> None:
    z0 = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="max_evals"):
        solve(torch.sin, z0, Picard(), max_evals=0)
    with pytest.raises(ValueError, match="rtol"):
        solve(torch.sin, z0, Picard(), max_evals=3, rtol=-1.0)
    with pytest.raises(TypeError, match="floating-point"):
        solve(torch.sin, torch.zeros(2, 3, dtype=torch.int64), Picard(), max_evals=3)
    with pytest.raises(ValueError, match="batch dimension"):
        solve(torch.sin, torch.tensor(1.0), Picard(), max_evals=3)
    with pytest.raises(ValueError, match=r"\(2, 3\) became \(2, 2\)"):
        solve(lambda z: z[:, :2], z0, Picard(), max_evals=3)
    with pytest.raises(ValueError, match="in place"):
        solve(lambda z: z.add_(1), z0, Picard(), max_evals=3)
    for bad in (
        lambda: Broyden(0.0),
        lambda: Broyden(memory=0),
        lambda: Anderson(0),
        lambda: Anderson(5, 2.0),
        lambda: Picard(-1.0),
    ):
        with pytest.raises(ValueError, match="must"):
            bad()
