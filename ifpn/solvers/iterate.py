"""The one loop: it calls f, measures residuals, keeps the best state, freezes what is finished, and stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ifpn.solvers.batched import accumulation_dtype, any_or_device, sample_norms
from ifpn.solvers.solution import Map, Solution, Status
from ifpn.solvers.state import BestState, FlatMap, check_state, flatten
from ifpn.solvers.step_rule import StepRule, check_count, check_rule


def check_budget(name: str, value: int, tolerances: dict[str, float]) -> None:
    """Raise ValueError for a budget below 1 or a negative tolerance."""
    check_count(name, value)
    for key, tolerance in tolerances.items():
        if not tolerance >= 0:
            raise ValueError(f"{key} must be 0 (no tolerance) or positive, got {tolerance}")


def solve(f: Map, z0: Tensor, solver: StepRule, *, max_evals: int, rtol: float = 0.0, atol: float = 0.0) -> Solution:
    """Search z = f(z) from z0, without autograd.

    Every sample is solved on its own: its result does not depend on its batch mates as long as f treats
    samples independently. A sample is finished, and frozen at its best state, when |f(z) - z| <= max(atol,
    rtol |f(z)|), or when f gives it a non-finite value. z0 counts as a candidate, so the result is never
    worse than z0.

    With rtol = atol = 0 exactly max_evals evaluations are made and nothing in the loop waits for the device;
    otherwise the loop ends once all samples are finished.

    Args:
        f: maps (B, ...) to the same shape, without changing its argument. It sees float32 (float64 if z0 is
            float64), under whatever autocast is active; its output may be of any floating-point type.
        z0: (B, ...) first state. It is only read.
        solver: Broyden(), Anderson() or Picard().
        max_evals: evaluations of f, at least 1.

    Returns:
        Solution; `value` has the shape of z0 and is float32 or float64. It is finite wherever z0 is: a sample
        whose first evaluation already fails keeps z0, residual inf and Status.NONFINITE.

    Raises:
        ValueError: a bad budget or tolerance, a change of shape, or (on the CPU, where looking costs nothing)
            a non-finite z0. On an accelerator a non-finite z0 is reported by the status alone.
        TypeError: z0 or f(z) is not a floating-point tensor.
    """
    check_state(z0)
    check_rule("solve", solver)
    check_budget("max_evals", max_evals, {"rtol": rtol, "atol": atol})
    with torch.no_grad():
        start = flatten(z0)
        solution = iterate(FlatMap(f, z0.shape), start, solver, max_evals, rtol, atol)
    _refuse_nonfinite(start, solution)
    return replace(solution, value=solution.value.view(z0.shape))


class _Tracker:
    """Residuals, tolerances and verdicts of every sample; only (B,) tensors."""

    def __init__(self, z0: Tensor, max_evals: int, rtol: float, atol: float, unit: Tensor | None) -> None:
        exact = accumulation_dtype(z0.device)
        batch = z0.shape[0]
        self.rtol, self.atol, self.unit = rtol, atol, unit
        self.tiny = torch.finfo(exact).tiny
        self.trace = z0.new_empty(max_evals, batch, dtype=exact)
        self.best = z0.new_full((batch,), torch.inf, dtype=exact)
        self.best_eval = z0.new_zeros(batch, dtype=torch.int64)
        self.status = z0.new_full((batch,), Status.MAX_EVALS, dtype=torch.int64)
        self.active = z0.new_ones(batch, dtype=torch.bool)

    def update(self, i: int, change: Tensor, fz: Tensor) -> Tensor:
        """Enter evaluation i, change = f(z) - z (B, N). Returns the mask (B,) of samples at a new best."""
        size = sample_norms(change)
        unit = sample_norms(fz) if self.unit is None else self.unit
        finite = size + unit < torch.inf  # false for NaN, too
        residual = torch.where(finite, size / unit.clamp_min(self.tiny), torch.inf)
        residual = torch.where(self.active, residual, self.best)
        self.trace[i] = residual
        improved = residual < self.best
        self.best = torch.minimum(residual, self.best)
        self.best_eval.masked_fill_(improved, i)
        limit = (self.rtol * unit).clamp_min(self.atol) if self.rtol > 0 else self.atol
        unfinished = finite & (size > limit)
        finished = self.active & ~unfinished
        if any_or_device(finished):
            self.status.masked_fill_(finished, Status.CONVERGED)
            self.status.masked_fill_(finished & ~finite, Status.NONFINITE)
            self.active = self.active & unfinished
        return improved

    def solution(self, value: Tensor, evals: int) -> Solution:
        stuck = (self.status == Status.MAX_EVALS) & (2 * self.best_eval < evals - 1)
        # Three evaluations or fewer say nothing about a trend.
        status = self.status.masked_fill(stuck, Status.STAGNATED) if evals > 3 else self.status
        return Solution(value, self.best, self.trace[:evals], evals, self.best_eval, status)


def iterate(
    f: Callable[[Tensor], Tensor],
    z0: Tensor,
    solver: StepRule,
    max_evals: int,
    rtol: float,
    atol: float,
    *,
    unit: Tensor | None = None,
) -> Solution:
    """The loop behind `solve`, on flat states (B, N); a given `unit` (B,) replaces |f(z)| in the residual."""
    tracker = _Tracker(z0, max_evals, rtol, atol, unit)
    best = BestState(z0)
    steps = solver.start(z0, max_evals)
    z, evals = z0, 0
    while True:
        fz = f(z)
        # f may have returned a tensor it keeps, or z itself: never write into it.
        change = torch.sub(fz, z, out=steps.residual_buffer())
        improved = tracker.update(evals, change, fz)
        best.update(z, improved)
        evals += 1
        if evals == max_evals or ((rtol > 0 or atol > 0) and not bool(tracker.active.any())):
            return tracker.solution(best.owned_value(), evals)
        z_next = best.next_buffer(z)
        # Our own matrix products must not be rounded to the half precision that is meant for f.
        with torch.autocast(z.device.type, enabled=False):
            steps.step(z, fz, z_next)
        del fz, change
        if any_or_device(~tracker.active):
            torch.where(tracker.active[:, None], z_next, best.value, out=z_next)
        z = z_next


def _refuse_nonfinite(z0: Tensor, solution: Solution) -> None:
    """Raise ValueError if z0 is to blame for a solve that failed from the start. Looks only on the CPU."""
    if z0.device.type != "cpu":
        return
    failed = torch.isinf(solution.residual).nonzero()[:, 0]
    bad = [int(b) for b in failed if not bool(torch.isfinite(z0[b]).all())]
    if bad:
        raise ValueError(f"z0 holds inf or NaN in sample(s) {bad}; start from finite states, e.g. zeros")
