"""Legitimate uses that are easy to get wrong: each works, or is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ifpn.solvers import (
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
    Unroll,
    Unrolled,
    fixed_point,
    solve,
    spectral_radius,
)
from ifpn.solvers.batched import LONG, inner_products, sample_norms
from ifpn.solvers.fixed_point import Backward

from .problems import F64, inputs, matrix, tanh_map

BACKWARDS: list[Backward] = [Implicit(), Implicit(Neumann()), Implicit(Broyden()), Unrolled(2), Phantom(2, 0.5)]
BACKWARDS += [OneStep()]
Run = Callable[[Callable[[Tensor], Tensor], Tensor], object]


# --- an f that changes its argument


def through_data(z: Tensor) -> Tensor:
    z.data.mul_(0.5)
    return z + 1


def through_numpy(z: Tensor) -> Tensor:
    z.detach().numpy()[:] = 3
    return z + 1


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "f", [lambda z: z.add_(1), lambda z: z.view(-1).relu_().view_as(z), through_data, through_numpy]
)
@pytest.mark.parametrize(
    "run",
    [
        lambda f, z: solve(f, z, Picard(), max_evals=3),
        lambda f, z: fixed_point(f, z),
        lambda f, z: Unroll(2)(f, z, training=False),
        lambda f, z: spectral_radius(f, z, 2),
    ],
)
def test_a_change_in_place_is_refused_in_every_mode(
    mode: type[torch.no_grad], f: Callable[[Tensor], Tensor], run: Run
) -> None:
    with mode():
        for z0 in (inputs(2, 3), inputs(2, 3).float(), torch.tensor([[-1.0]]).expand(2, 3)):
            before = z0.clone()
            with pytest.raises(ValueError, match="in place"):
                run(f, z0)
            assert torch.equal(z0, before)


# --- one sample that fails


class Shared(torch.nn.Module):
    """tanh of a shared layer with norm and bias, on inputs of which one sample may fail."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.linear, self.norm = torch.nn.Linear(6, 6, dtype=F64), torch.nn.LayerNorm(6, dtype=F64)
        with torch.no_grad():
            self.linear.weight.copy_(matrix(6, 0.4))
        self.x = x

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.linear(0.3 * self.norm(z + self.x)))


def closed_over(bad: float) -> Tensor:
    x = inputs(3, 6)
    x[1, 2] = bad
    return x


@pytest.mark.parametrize("how", [*BACKWARDS, "unroll"], ids=repr)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_sample_that_is_not_finite_stays_out_of_shared_gradients(how: Backward | str, bad: float) -> None:
    def gradients(x: Tensor) -> list[Tensor]:
        torch.manual_seed(0)
        f = Shared(x.requires_grad_())
        z0 = torch.full_like(x, 0.5)
        if isinstance(how, str):
            z, stats = Unroll(3)(f, z0, training=True)
        else:
            z, stats = fixed_point(f, z0, backward=how)
        if len(x) == 3:
            assert stats.forward.status[1] == Status.NONFINITE
            assert torch.isinf(stats.forward.residual[1])
            assert torch.equal(z[1], z0[1])
        z.square().sum().backward()
        assert x.grad is not None
        return [*(p.grad for p in f.parameters() if p.grad is not None), x.grad]

    *found, at_input = gradients(closed_over(bad))
    *expected, expected_input = gradients(closed_over(bad)[[0, 2]].detach())
    assert len(found) == len(expected) == 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(at_input[[0, 2]], expected_input, rtol=1e-9, atol=1e-12)
    assert torch.equal(at_input[1], torch.zeros(6, dtype=F64))


@pytest.mark.parametrize("how", BACKWARDS, ids=repr)
def test_a_sample_that_fails_under_autograd_alone(how: Backward) -> None:
    """Finite in the search, not in the evaluation with a graph (half precision may do that)."""
    w = matrix(6, 0.5).requires_grad_()
    x, first = inputs(2, 6), torch.tensor([[True], [False]])

    def f(z: Tensor) -> Tensor:
        fault = torch.where(first, torch.nan, 1.0) if torch.is_grad_enabled() else 1.0
        return torch.tanh(z @ w.T * fault) + x

    z, _ = fixed_point(f, torch.zeros_like(x), backward=how)
    (found,) = torch.autograd.grad(z.sum(), w)
    alone, _ = fixed_point(lambda z: torch.tanh(z @ w.T) + x[1:], torch.zeros(1, 6, dtype=F64), backward=how)
    (expected,) = torch.autograd.grad(alone.sum(), w)
    assert bool(torch.isfinite(z).all())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_an_unrolled_step_that_fails_keeps_the_state_before() -> None:
    calls = 0

    def f(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.where((torch.arange(2)[:, None] == 0) & (z > 1.2), torch.nan, z + 0.5)

    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            z, stats = Unroll(4)(f, torch.zeros(2, 3), training=False)
        assert z[:, 0].tolist() == [1.5, 2.0]
        assert stats.forward.status.tolist() == [Status.NONFINITE, Status.MAX_EVALS]


# --- precision


@pytest.mark.slow
def test_long_vectors_keep_six_digits() -> None:
    """One float32 sum over 2e7 numbers keeps three digits at best, two where all are equal: nothing averages out."""
    n = 20_000_000
    generator = torch.Generator().manual_seed(0)
    for x in (torch.rand(1, n, generator=generator), torch.full((1, n), 0.1), torch.full((1, n), 0.7)):
        other = (0.5 * x + 0.25).unsqueeze(1)
        product = inner_products(other, x)
        torch.testing.assert_close(product[0, 0], (x[0].double() @ other[0, 0].double()), rtol=1e-6, atol=0)
        torch.testing.assert_close(sample_norms(x)[0], x[0].double().norm(), rtol=1e-6, atol=0)


def test_long_vectors_in_a_batch_and_in_a_slice() -> None:
    n = LONG + 4097  # parts and a rest
    history = torch.randn(3, 4, n, generator=torch.Generator().manual_seed(0))
    x = history[:, 3] + 1
    exact = (history[:, :2].double() * x.double()[:, None]).sum(dim=2)
    torch.testing.assert_close(inner_products(history[:, :2], x), exact, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(sample_norms(history[:, 3]), history[:, 3].double().norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(sample_norms(x.bfloat16()), x.bfloat16().double().norm(dim=1), rtol=1e-6, atol=0)


# --- arguments


def test_counts_of_numpy_work() -> None:
    two, half = np.int64(2), np.float32(0.5)
    x = inputs(2, 3)
    for count in (two, np.uint8(2)):
        assert solve(torch.sin, x, Anderson(count, half), max_evals=count).evals == 2  # type: ignore[arg-type]
        policy = Equilibrium(Broyden(memory=count), count, count, rtol=half, backward=Implicit(max_vjps=count))  # type: ignore[arg-type]
        assert policy(torch.sin, x, training=True)[1].forward.evals <= 2
        assert (Unroll(count), Unrolled(count)) == (Unroll(2), Unrolled(2))  # type: ignore[arg-type]
        spectral_radius(torch.sin, x, count)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [None, "0.1", True, -0.1, torch.nan])
def test_a_tolerance_that_is_none_is_named(bad: object) -> None:
    for make in (
        lambda: solve(torch.sin, torch.zeros(1, 2), Picard(), max_evals=3, rtol=bad),  # type: ignore[arg-type]
        lambda: Forward(rtol=bad),  # type: ignore[arg-type]
        lambda: Implicit(rtol=bad),  # type: ignore[arg-type]
        lambda: Equilibrium(rtol=bad),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r"rtol(=| must be ).*number"):
            make()
    with pytest.raises(ValueError, match="whole number"):
        Forward(max_evals=bad)  # type: ignore[arg-type]


# --- other kinds of derivatives


def dual() -> Iterator[tuple[AbstractContextManager[object], Callable[[], object]]]:
    w, x = matrix(4, 0.5), inputs(2, 4)

    def forward_mode() -> object:
        with forward_ad.dual_level():
            moving = forward_ad.make_dual(x, torch.ones_like(x))
            return fixed_point(tanh_map(w, moving), torch.zeros_like(x))

    def value(x: Tensor) -> Tensor:
        return fixed_point(tanh_map(w, x), torch.zeros(2, 4, dtype=F64))[0]

    yield torch.enable_grad(), forward_mode
    yield torch.no_grad(), forward_mode
    yield torch.enable_grad(), lambda: torch.func.vmap(value)(inputs(6, 4).view(3, 2, 4))
    yield torch.no_grad(), lambda: torch.func.vmap(value)(inputs(6, 4).view(3, 2, 4))
    yield torch.enable_grad(), lambda: torch.func.jvp(value, (x,), (x,))
    yield torch.enable_grad(), lambda: torch.func.grad(lambda x: value(x).sum())(x)


own_warning = pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")  # torch's own, of forward mode


@own_warning
@pytest.mark.parametrize("case", range(6))
def test_transforms_that_a_search_cannot_serve_are_refused(case: int) -> None:
    mode, run = list(dual())[case]
    with mode, pytest.raises(RuntimeError, match=r"vmap|jvp"):
        run()


@own_warning
def test_unroll_takes_every_transform() -> None:
    w, x = matrix(4, 0.5), inputs(2, 4)

    def value(x: Tensor) -> Tensor:
        return Unroll(2)(tanh_map(w, x), torch.zeros(2, 4, dtype=F64), training=True)[0]

    def plain(x: Tensor) -> Tensor:
        return torch.tanh(torch.tanh(x) @ w.T + x)

    many = inputs(6, 4).view(3, 2, 4)
    torch.testing.assert_close(torch.func.vmap(value)(many), torch.func.vmap(plain)(many))
    for a, b in zip(torch.func.jvp(value, (x,), (x,)), torch.func.jvp(plain, (x,), (x,)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("how", [Implicit(), OneStep(), Unrolled(2), Phantom(2, 0.5)], ids=repr)
def test_derivatives_of_derivatives(how: Backward) -> None:
    """Refused where they would lack the motion of the state; else those of the steps that are recorded."""
    w, x = matrix(4, 0.5), inputs(2, 4).requires_grad_()
    z, stats = fixed_point(tanh_map(w, x), torch.zeros(2, 4, dtype=F64), backward=how)
    if isinstance(how, Implicit | OneStep):
        with pytest.raises(RuntimeError, match="first derivatives only"):
            torch.autograd.grad(z.square().sum(), x, create_graph=True)
        return
    tau, y = getattr(how, "tau", 1.0), stats.forward.value
    for _ in range(how.steps):
        y = y + tau * (torch.tanh(y @ w.T + x) - y)
    for a, b in zip(twice(z, x), twice(y, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def twice(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    (first,) = torch.autograd.grad(z.square().sum(), x, create_graph=True)
    return first.detach(), torch.autograd.grad(first.square().sum(), x)[0]


# --- a start at the root


@pytest.mark.parametrize("rule", [Broyden(), Anderson(), Picard()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_sample_at_its_root_is_converged(rule: Broyden | Anderson | Picard, dtype: torch.dtype) -> None:
    """The residual there is rounding, and no later state can be better."""
    w, x = matrix(20, 0.5).to(dtype), inputs(3, 20).to(dtype)
    f = tanh_map(w, x)
    root = solve(f, torch.zeros_like(x), Anderson(), max_evals=60).value
    start = root.clone()
    start[1] = 0
    for rtol in (0.0, 1e-3):
        found = solve(f, start, rule, max_evals=8, rtol=rtol)
        assert found.status[[0, 2]].tolist() == [Status.CONVERGED] * 2
    assert solve(f, start, Picard(), max_evals=4).status[1] == Status.MAX_EVALS
