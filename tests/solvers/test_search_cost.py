"""No evaluation is wasted: the search keeps f(best), and finished samples leave the batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ifpn.solvers import (
    Anderson,
    Broyden,
    Forward,
    Implicit,
    OneStep,
    Phantom,
    Picard,
    Solution,
    Unrolled,
    fixed_point,
    solve,
)
from ifpn.solvers.fixed_point import Backward

from .problems import Counted, inputs, linear_map, matrix, tanh_map

rules = pytest.mark.parametrize("rule", [Broyden(), Anderson(), Picard(0.6)], ids=repr)
W, X = matrix(20, 1.1).float(), inputs(3, 20).float()  # beyond a contraction: the best state is not the last


@rules
@pytest.mark.parametrize(
    ("how", "after"), [(Implicit(), 0), (OneStep(), 0), (Unrolled(3), 2), (Phantom(2, 0.5), 1)], ids=repr
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_value_without_gradients_costs_no_evaluation_and_has_the_same_bits(
    rule: Broyden | Anderson | Picard, how: Backward, after: int, mode: type[torch.no_grad]
) -> None:
    f = Counted(tanh_map(W.clone().requires_grad_(), X))
    graded, _ = fixed_point(f, torch.zeros_like(X), forward=Forward(rule, 9), backward=how)
    f.plain = 0
    with mode():
        plain, _ = fixed_point(f, torch.zeros_like(X), forward=Forward(rule, 9), backward=how)
    assert f.plain == 9 + after
    assert torch.equal(plain, graded)


def test_the_kept_value_is_a_copy() -> None:
    """f may write every result into one buffer of its own, as a captured graph does."""
    out, f = torch.empty_like(X), tanh_map(W, X)
    with torch.no_grad():
        expected, _ = fixed_point(f, torch.zeros_like(X))
        value, _ = fixed_point(lambda z: out.copy_(f(z)), torch.zeros_like(X))
    assert torch.equal(value, expected)


class PerSample:
    """z -> tanh(gain W z + x) with a gain per sample, restrictable; counts evaluations of single samples."""

    def __init__(self, gain: Tensor, x: Tensor, counter: list[int] | None = None) -> None:
        self.gain, self.x, self.counter = gain, x, [] if counter is None else counter

    def __call__(self, z: Tensor) -> Tensor:
        assert len(z) == len(self.x)
        self.counter.append(len(z))
        return torch.tanh(self.gain * (z @ (W.T / 1.1)) + self.x)

    def take(self, index: Tensor) -> PerSample:
        return PerSample(self.gain[index], self.x[index], self.counter)


GAINS = torch.tensor([0.9, 0.05, 0.6, 0.1, 0.8, 0.3, 0.0, 0.5])[:, None]
INPUTS = inputs(8, 20).float()


def both(rule: Broyden | Anderson | Picard, rtol: float, z0: Tensor) -> tuple[PerSample, Solution, Solution]:
    f = PerSample(GAINS[: len(z0)], INPUTS[: len(z0)])
    whole = solve(f.__call__, z0, rule, max_evals=30, rtol=rtol)
    f.counter.clear()
    return f, whole, solve(f, z0, rule, max_evals=30, rtol=rtol)


@rules
def test_finished_samples_leave(rule: Broyden | Anderson | Picard) -> None:
    f, whole, found = both(rule, 1e-4, torch.zeros(8, 20))
    # float32 rounding of differently batched matrix products
    torch.testing.assert_close(found.value, whole.value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.residual, whole.residual, rtol=1e-2, atol=1e-7)
    assert torch.equal(found.status, whole.status)
    assert found.trace.shape == whole.trace.shape
    assert torch.equal(found.best_eval, whole.best_eval)
    assert found.sample_evals is not None
    assert whole.sample_evals is not None
    assert torch.equal(found.sample_evals, whole.sample_evals)
    assert len(set(found.sample_evals.tolist())) > 3
    assert f.counter[0] == 8
    assert f.counter[-1] < 3
    # Fewer than a quarter of those present may be done and still computed.
    needed = int(found.sample_evals.sum())
    assert needed <= sum(f.counter) <= needed * 4 / 3
    assert sum(f.counter) < 8 * found.evals * 0.7


@rules
def test_each_sample_is_counted_to_its_own_end(rule: Broyden | Anderson | Picard) -> None:
    _, _, found = both(rule, 1e-3, torch.zeros(8, 20))
    assert found.sample_evals is not None
    for i in range(8):
        alone = solve(PerSample(GAINS[i : i + 1], INPUTS[i : i + 1]), torch.zeros(1, 20), rule, max_evals=30, rtol=1e-3)
        assert alone.evals == found.sample_evals[i]
    fixed = solve(linear_map(W, X), torch.zeros_like(X), rule, max_evals=5)
    assert fixed.sample_evals is not None
    assert fixed.sample_evals.tolist() == [5, 5, 5]


@rules
def test_one_sample_and_a_fixed_budget_are_as_before(rule: Broyden | Anderson | Picard) -> None:
    for rows, rtol in ((1, 1e-3), (8, 0.0)):
        f, whole, found = both(rule, rtol, torch.zeros(rows, 20))
        assert torch.equal(found.value, whole.value)
        assert f.counter == [rows] * found.evals


def test_a_failed_sample_leaves_with_its_best_state() -> None:
    class Failing(PerSample):
        def __call__(self, z: Tensor) -> Tensor:
            out = super().__call__(z)
            late = len(self.counter) > 2
            return torch.where(late & (self.gain == GAINS[0]), torch.nan, out)

        def take(self, index: Tensor) -> Failing:
            return Failing(self.gain[index], self.x[index], self.counter)

    for mode in (torch.no_grad, torch.inference_mode):
        f = Failing(GAINS[:2], INPUTS[:2])
        with mode():
            value, stats = fixed_point(f, torch.zeros(2, 20), forward=Forward(Anderson(), 9, rtol=1e-3))
        before = solve(PerSample(GAINS[:1], INPUTS[:1]), torch.zeros(1, 20), Anderson(), max_evals=2)
        assert stats.forward.sample_evals is not None
        assert stats.forward.sample_evals[0] == 3
        torch.testing.assert_close(stats.forward.value[0], before.value[0])
        assert bool(torch.isfinite(value).all())


def test_no_sample_leaves_under_autograd() -> None:
    """In training every image is computed to the end: batch statistics and masks belong to the whole batch."""
    f = PerSample(GAINS.clone().requires_grad_(), INPUTS)
    value, stats = fixed_point(f, torch.zeros(8, 20), forward=Forward(Anderson(), 30, rtol=1e-4))
    assert value.requires_grad
    assert f.counter == [8] * (stats.forward.evals + 1)


def test_a_step_rule_without_take_computes_to_the_end() -> None:
    class Own:
        def start(self, z0: Tensor, max_evals: int) -> object:
            steps = Picard().start(z0, max_evals)

            class Steps:
                residual_buffer: Callable[[], Tensor] = staticmethod(steps.residual_buffer)
                step: Callable[[Tensor, Tensor, Tensor], None] = staticmethod(steps.step)

            return Steps()

    f = PerSample(GAINS, INPUTS)
    found = solve(f, torch.zeros(8, 20), Own(), max_evals=30, rtol=1e-3)  # type: ignore[arg-type]
    assert f.counter == [8] * found.evals
