"""The implicit gradient: exact, scale-free, once per parameter, and safe in the settings people train in."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ifpn.solvers import (
    GMRES,
    Anderson,
    Broyden,
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
)
from ifpn.solvers.adjoint import LinearSolver, solve_adjoint

from .problems import F64, ConvBlock, Counted, inputs, linear_map, matrix, tanh_map

LINEAR: list[LinearSolver] = [GMRES(), Neumann(), Broyden(memory=80), Anderson(5)]
linear = pytest.mark.parametrize("solver", LINEAR, ids=repr)
PRECISE = Forward(Broyden(memory=80), 80)


@linear
@pytest.mark.slow
def test_gradcheck_including_a_zero_cotangent(solver: LinearSolver) -> None:
    w, x = matrix(3, 0.4).requires_grad_(), inputs(2, 3).requires_grad_()
    how = Implicit(solver, 25)

    def value(w: Tensor, x: Tensor) -> Tensor:
        return fixed_point(tanh_map(w, x), torch.zeros(2, 3, dtype=F64), forward=Forward(Anderson(), 20), backward=how)[
            0
        ]

    assert torch.autograd.gradcheck(value, (w, x), eps=1e-6, atol=1e-6)
    # One sample without a gradient: an image without objects.
    assert torch.autograd.gradcheck(lambda w, x: value(w, x)[1], (w, x), eps=1e-6, atol=1e-6)


@linear
@pytest.mark.slow
def test_gradient_is_that_of_500_unrolled_steps(solver: LinearSolver) -> None:
    w, x = matrix(30, 0.8).requires_grad_(), inputs(3, 30).requires_grad_()
    z = torch.zeros_like(x)
    for _ in range(500):
        z = tanh_map(w, x)(z)
    exact = torch.autograd.grad((z**3).sum(), (w, x))
    y, _ = fixed_point(tanh_map(w, x), torch.zeros_like(x), forward=PRECISE, backward=Implicit(solver, 300))
    for ours, theirs in zip(torch.autograd.grad((y**3).sum(), (w, x)), exact, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) <= 1e-10


def test_gmres_is_exact_in_the_dimension() -> None:
    w, g = matrix(12, 0.9), inputs(3, 12)
    solution = solve_adjoint(lambda v: v @ w, g, GMRES(), 12, 0.0)
    exact = torch.linalg.solve(torch.eye(12, dtype=F64) - w.T, g.T).T
    assert float((solution.value - exact).norm() / exact.norm()) <= 1e-10


@linear
def test_reported_residual_is_the_true_one_and_the_input_gradient_is_free(solver: LinearSolver) -> None:
    # With f(z) = F(z + b): dL/db = Jᵀu = u - g at the solution.
    w = matrix(30, 0.7)
    for vjps in (3, 200):
        b = inputs(2, 30).requires_grad_()
        y, stats = fixed_point(
            lambda z, b=b: torch.tanh((z + b) @ w.T),
            torch.zeros(2, 30, dtype=F64),
            forward=PRECISE,
            backward=Implicit(solver, vjps),
        )
        z = stats.forward.value
        g = inputs(2, 30, seed=7)
        y.backward(g)
        slope = 1 - torch.tanh((z + b.detach()) @ w.T) ** 2
        u = solve_adjoint(lambda v, s=slope: (v * s) @ w, g, solver, vjps, 0.0).value
        product = (u * slope) @ w
        assert b.grad is not None
        assert stats.backward is not None
        torch.testing.assert_close(b.grad, product, rtol=1e-9, atol=1e-10)
        true = (g + product - u).norm(dim=1) / g.norm(dim=1)
        torch.testing.assert_close(stats.backward.residual, true, rtol=1e-6, atol=1e-13)
        if vjps == 200:
            torch.testing.assert_close(b.grad, u - g, rtol=1e-10, atol=1e-10)
        assert stats.backward.evals <= vjps
        assert stats.backward.value.numel() == 0


@linear
@pytest.mark.parametrize("rtol", [0.0, 1e-3])
def test_the_scale_of_the_gradient_does_not_matter(solver: LinearSolver, rtol: float) -> None:
    w, g = matrix(40, 0.8).float(), inputs(2, 40).float()
    one = solve_adjoint(lambda v: v @ w, g, solver, 12, rtol)
    for scale in (1e-6, 1e-25):
        tiny = solve_adjoint(lambda v: v @ w, scale * g, solver, 12, rtol)
        assert tiny.evals == one.evals
        torch.testing.assert_close(tiny.value / scale, one.value, rtol=1e-5, atol=1e-5)


@linear
def test_a_backward_tolerance_stops_early(solver: LinearSolver) -> None:
    w, g = matrix(40, 0.6), inputs(2, 40)
    solution = solve_adjoint(lambda v: v @ w, g, solver, 100, 1e-4)
    assert solution.evals < 60
    assert solution.status.tolist() == [Status.CONVERGED] * 2
    u = solution.value
    assert float(((g + u @ w - u).norm(dim=1) / g.norm(dim=1)).max()) <= 1e-4


@linear
@pytest.mark.parametrize(("rho", "vjps"), [(1.3, 5), (1.8, 8)])
def test_an_expanding_jacobian_leaves_u_bounded(solver: LinearSolver, rho: float, vjps: int) -> None:
    w, g = matrix(60, rho), inputs(4, 60)
    u = solve_adjoint(lambda v: v @ w, g, solver, vjps, 0.0).value
    assert bool((u.norm(dim=1) <= 10 * g.norm(dim=1)).all())
    if rho > 1.5:  # what the guard prevents
        bare = sum(g @ torch.linalg.matrix_power(w, k) for k in range(vjps + 1))
        assert float((bare.norm(dim=1) / g.norm(dim=1)).max()) > 30


def test_gmres_keeps_u_within_its_limit_at_an_eigenvalue_of_one() -> None:
    w = torch.diag(torch.tensor([1 - 1e-4, 0.5, 0.3], dtype=F64))
    g = torch.ones(1, 3, dtype=F64)
    u = solve_adjoint(lambda v: v @ w, g, GMRES(), 3, 0.0).value
    assert float(u.norm() / g.norm()) <= 100
    exact = solve_adjoint(lambda v: v @ w, g, GMRES(limit=1e9), 3, 0.0).value
    torch.testing.assert_close(exact, 1 / (1 - w.diagonal())[None], rtol=1e-6, atol=0)


@linear
def test_a_failing_product_costs_only_its_sample(solver: LinearSolver) -> None:
    w, g = matrix(20, 0.8), inputs(2, 20)
    sound = solve_adjoint(lambda v: v @ w, g, solver, 6, 0.0)
    for first in (1, 3):
        calls = 0

        def product(v: Tensor, first: int = first) -> Tensor:
            nonlocal calls
            calls += 1
            assert bool(torch.isfinite(v).all())
            out = v @ w
            if calls >= first:
                out[0] = torch.inf
            return out

        found = solve_adjoint(product, g, solver, 6, 0.0)
        assert found.status[0] == Status.NONFINITE
        assert bool(torch.isfinite(found.value).all())
        assert torch.equal(found.value[1], sound.value[1])
        if first == 1:
            torch.testing.assert_close(found.value[0], g[0])


@pytest.mark.parametrize("rule", [Broyden(), Anderson(), Picard()], ids=repr)
def test_f_is_evaluated_once_under_autograd_and_never_in_the_backward(
    rule: Broyden | Anderson | Picard,
) -> None:
    w, x = matrix(10, 0.5).requires_grad_(), inputs(2, 10)
    f = Counted(tanh_map(w, x))
    y, stats = fixed_point(f, torch.zeros_like(x), forward=Forward(rule, 9))
    assert (f.plain, f.graded) == (9, 1)
    y.sum().backward()
    assert (f.plain, f.graded) == (9, 1)
    assert stats.backward is not None
    with torch.no_grad():
        plain, _ = fixed_point(f, torch.zeros_like(x), forward=Forward(rule, 9))
    assert (f.plain, f.graded) == (18, 1)  # without gradients the search has f at the best state already
    assert torch.equal(plain, y)
    assert not plain.requires_grad


def test_inference_mode() -> None:
    block = ConvBlock()
    with torch.inference_mode():
        z, stats = fixed_point(block, torch.zeros(1, 8, 4, 4))
    assert bool(torch.isfinite(z).all())
    assert stats.backward is None


def test_no_evaluation_finite_returns_z0() -> None:
    x = inputs(2, 3).requires_grad_()
    broken = torch.tensor([[torch.nan], [0.0]], dtype=F64)
    z, stats = fixed_point(lambda z: 0.5 * z + x + broken, torch.ones(2, 3, dtype=F64))
    assert stats.forward.status[0] == Status.NONFINITE
    assert torch.equal(z[0], torch.ones(3, dtype=F64))
    z.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[0], torch.zeros(3, dtype=F64))
    torch.testing.assert_close(x.grad[1], torch.full((3,), 2.0, dtype=F64))


@pytest.mark.parametrize("backward", [Unrolled(30), Phantom(60, 0.5), Unrolled(1), OneStep()], ids=repr)
def test_inexact_gradients_are_what_they_say(backward: Unrolled | Phantom | OneStep) -> None:
    w, x = matrix(20, 0.5).requires_grad_(), inputs(2, 20)
    y, stats = fixed_point(tanh_map(w, x), torch.zeros_like(x), forward=PRECISE, backward=backward)
    (ours,) = torch.autograd.grad((y**2).sum(), w)
    z = stats.forward.value
    if backward in (OneStep(), Unrolled(1)):
        (theirs,) = torch.autograd.grad((torch.tanh(z @ w.T + x) ** 2).sum(), w)
        tolerance = 1e-12
    else:
        y, _ = fixed_point(tanh_map(w, x), torch.zeros_like(x), forward=PRECISE, backward=Implicit(GMRES(), 40))
        (theirs,) = torch.autograd.grad((y**2).sum(), w)
        tolerance = 1e-6  # 0.5^30 and 0.75^60, times the size of the transient
    assert float((ours - theirs).norm() / theirs.norm()) <= tolerance
    assert stats.backward is None


def test_the_value_is_freed_without_the_collector() -> None:
    x = inputs(2, 5).requires_grad_()
    gc.disable()
    try:
        y, stats = fixed_point(lambda z: 0.5 * z + x, torch.zeros_like(x))
        node, state, value = weakref.ref(y.grad_fn), weakref.ref(stats.forward.value), weakref.ref(y)
        del y, stats
        assert (node(), state(), value()) == (None, None, None)
    finally:
        gc.enable()


def test_a_second_backward_and_a_second_derivative_are_refused() -> None:
    w, x = matrix(5, 0.5).requires_grad_(), inputs(2, 5)
    y, _ = fixed_point(tanh_map(w, x), torch.zeros_like(x))
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    y, _ = fixed_point(tanh_map(w, x), torch.zeros_like(x))
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(y.sum(), w, create_graph=True)


def test_a_kept_graph_gives_the_same_gradient_again() -> None:
    w, x = matrix(5, 0.5).requires_grad_(), inputs(2, 5)
    y, _ = fixed_point(tanh_map(w, x), torch.zeros_like(x))
    (first,) = torch.autograd.grad(y.sum(), w, retain_graph=True)
    (second,) = torch.autograd.grad(y.sum(), w)
    assert torch.equal(first, second)


def test_f_may_ignore_its_argument_or_have_nothing_to_learn() -> None:
    x = inputs(2, 5).requires_grad_()
    y, _ = fixed_point(lambda z: x * 2, torch.zeros_like(x))
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 2.0))
    y, _ = fixed_point(lambda z: torch.ones_like(z), torch.zeros(2, 5))
    assert not y.requires_grad


def gradients(block: nn.Module, f: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    block.zero_grad()
    y, _ = fixed_point(lambda z: f(z + x), torch.zeros_like(x), forward=Forward(Broyden(), 20))
    y.square().mean().backward()
    return [p.grad.clone() for p in block.parameters() if p.grad is not None]


def test_activation_checkpointing_of_f_and_of_its_surroundings() -> None:
    block, x = ConvBlock(), torch.randn(2, 8, 6, 6)
    plain = gradients(block, block, x)
    inside = gradients(block, lambda z: checkpoint(block, z, use_reentrant=False), x)
    for a, b in zip(plain, inside, strict=True):
        torch.testing.assert_close(a, b)
    block.zero_grad()
    y = checkpoint(
        lambda x: fixed_point(lambda z: block(z + x), torch.zeros_like(x), forward=Forward(Broyden(), 20))[0],
        x,
        use_reentrant=False,
    )
    y.square().mean().backward()
    for a, p in zip(plain, block.parameters(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(a, p.grad)


# torch.compile itself looks at .grad of an input that is not a leaf, for any module inside a network.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_f() -> None:
    block, x = ConvBlock(), torch.randn(2, 8, 6, 6)
    compiled = torch.compile(block, backend="aot_eager")
    for a, b in zip(gradients(block, block, x), gradients(block, compiled, x), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_reaches_every_evaluation_and_every_weight() -> None:
    block, x = ConvBlock(), torch.randn(2, 8, 6, 6)
    f = Counted(lambda z: block(z + x))
    exact = gradients(block, block, x)
    block.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, stats = fixed_point(f, torch.zeros_like(x), forward=Forward(Broyden(), 20))
        loss = y.square().mean()
    assert y.dtype == stats.forward.value.dtype == torch.float32
    assert set(f.seen) == {torch.bfloat16}
    loss.backward()
    for a, p in zip(exact, block.parameters(), strict=True):
        assert p.grad is not None
        # bfloat16 rounds to 0.4%; a dozen products and sums that cancel multiply that. A weight whose
        # gradient was lost, to a cast that was cached under no_grad, would be at 1.
        assert float((a - p.grad).norm() / a.norm()) < 0.2


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="max_vjps"):
        Implicit(GMRES(), 0)
    with pytest.raises(ValueError, match="limit"):
        GMRES(0.5)
    with pytest.raises(TypeError, match="GMRES"):
        Implicit(Picard(), 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps"):
        Unrolled(0)
    with pytest.raises(ValueError, match="tau"):
        Phantom(3, 0.0)
    with pytest.raises(TypeError, match="Broyden"):
        Forward("broyden", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in place"):
        fixed_point(lambda z: z.mul_(2), torch.zeros(1, 2))


def test_linear_equilibrium_has_the_closed_form() -> None:
    w, x = matrix(10, 0.9), inputs(2, 10)
    z, _ = fixed_point(linear_map(w, x), torch.zeros_like(x), forward=Forward(Anderson(12), 14))
    torch.testing.assert_close(z, torch.linalg.solve(torch.eye(10, dtype=F64) - w, x.T).T)
    assert float(solve(linear_map(w, x), z, Picard(), max_evals=1).residual.max()) < 1e-9
