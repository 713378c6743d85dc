"""The one loop: it calls f, measures residuals, keeps the best state, freezes what is finished, and stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ifpn.solvers.batched import accumulation_dtype, any_or_device, sample_norms
from ifpn.solvers.solution import Map, Solution, Status
from ifpn.solvers.state import BestState, FlatMap, check_state, flatten, refuse_transforms
from ifpn.solvers.step_rule import StepRule, check_budget, check_rule


def solve(f: Map, z0: Tensor, solver: StepRule, *, max_evals: int, rtol: float = 0.0, atol: float = 0.0) -> Solution:
    """Search z = f(z) from z0, without autograd.

    Every sample is solved on its own: its result does not depend on its batch mates as long as f treats
    samples independently. A sample is finished, and frozen at its best state, when |f(z) - z| <= max(atol,
    rtol |f(z)|), or when f gives it a non-finite value. z0 counts as a candidate, so the result is never
    worse than z0.

    With rtol = atol = 0 exactly max_evals evaluations are made and nothing in the loop waits for the device;
    otherwise the loop ends once all samples are finished. If f has a method `take`, finished samples are then no
    longer computed: as soon as they are a quarter of those present they leave, and the batch costs about the sum
    of its samples. (A smaller batch may round differently, within the accuracy of f.)

    Args:
        f: maps (B, ...) to the same shape, without changing its argument. It sees float32 (float64 if z0 is
            float64), under whatever autocast is active; its output may be of any floating-point type.
            `f.take(index)`, optional: f on the samples `index` (b,) int64, ascending, alone. None for cannot.
        z0: (B, ...) first state. It is only read.
        solver: Broyden(), Anderson() or Picard().
        max_evals: evaluations of f, at least 1.
        rtol: relative tolerance, at least 0.
        atol: absolute tolerance, at least 0.

    Returns:
        Solution; `value` has the shape of z0 and is float32 or float64. It is finite wherever z0 is: a sample
        whose first evaluation already fails keeps z0, residual inf and Status.NONFINITE.

    Raises:
        ValueError: a bad budget or tolerance, a change of shape, or (on the CPU, where looking costs nothing)
            a non-finite z0. On an accelerator a non-finite z0 is reported by the status alone. Also an f that
            changes its argument in place; z0 is not changed by it.
        TypeError: z0 or f(z) is not a floating-point tensor.
        RuntimeError: under forward-mode AD or a transform of torch.func.
    """
    return search(f, z0, solver, max_evals, rtol, atol, leave=True)[0]


def search(
    f: Map, z0: Tensor, solver: StepRule, max_evals: int, rtol: float, atol: float, *, leave: bool, keep_f: bool = False
) -> tuple[Solution, Tensor | None]:
    """The work of `solve`; with `keep_f` it also returns f at the best state, (B, ...) in state precision.

    `leave` lets finished samples leave the computation, where f has `take`. A sample of which no evaluation was
    finite has its z0 in place of f.
    """
    check_state(z0)
    check_rule("solve", solver)
    max_evals = check_budget("max_evals", max_evals, {"rtol": rtol, "atol": atol})
    refuse_transforms()
    inference = torch.is_inference_mode_enabled()
    # f keeps the caller's mode; our own states are ordinary tensors, which can tell that f has changed them.
    with torch.inference_mode(False), torch.no_grad():
        start = flatten(z0)
        flat = FlatMap(f, z0.shape, start, inference)
        solution, kept = iterate(flat, start, solver, max_evals, rtol, atol, leave=leave, keep_f=keep_f)
    _refuse_nonfinite(start, solution)
    kept = None if kept is None else kept.view(z0.shape)
    return replace(solution, value=solution.value.view(z0.shape)), kept


class _Tracker:
    """Residuals, tolerances and verdicts of every sample; only (B,) tensors.

    `rows` (b,) are the samples still computed, None for all of them; what the loop passes and gets has b rows.
    """

    def __init__(self, z0: Tensor, max_evals: int, rtol: float, atol: float, unit: Tensor | None) -> None:
        exact = accumulation_dtype(z0.device)
        batch = z0.shape[0]
        self.rtol, self.atol, self.unit = rtol, atol, unit
        self.tiny = torch.finfo(exact).tiny
        self.floor = 8 * torch.finfo(z0.dtype).eps  # no residual of rounded states can be asked to be smaller
        self.trace = z0.new_empty(max_evals, batch, dtype=exact)
        self.best = z0.new_full((batch,), torch.inf, dtype=exact)
        self.best_eval = z0.new_zeros(batch, dtype=torch.int64)
        self.last_eval = z0.new_full((batch,), max_evals - 1, dtype=torch.int64)
        self.status = z0.new_full((batch,), Status.MAX_EVALS, dtype=torch.int64)
        self.active = z0.new_ones(batch, dtype=torch.bool)
        self.rows: Tensor | None = None

    def update(self, i: int, change: Tensor, fz: Tensor) -> Tensor:
        """Enter evaluation i, change = f(z) - z (b, N). Returns the mask (b,) of samples at a new best."""
        size = sample_norms(change)
        unit = sample_norms(fz) if self.unit is None else self.unit
        finite = size + unit < torch.inf  # false for NaN, too
        residual = torch.where(finite, size / unit.clamp_min(self.tiny), torch.inf)
        limit = (self.rtol * unit).clamp_min(self.atol) if self.rtol > 0 else self.atol
        unfinished = finite & (size > limit)
        if self.rows is not None:
            residual = self.best.index_copy(0, self.rows, residual)
            finite = torch.ones_like(self.active).index_copy(0, self.rows, finite)
            unfinished = torch.zeros_like(self.active).index_copy(0, self.rows, unfinished)
        residual = torch.where(self.active, residual, self.best)
        self.trace[i] = residual
        improved = residual < self.best
        self.best = torch.minimum(residual, self.best)
        self.best_eval.masked_fill_(improved, i)
        finished = self.active & ~unfinished
        if any_or_device(finished):
            self.status.masked_fill_(finished, Status.CONVERGED)
            self.status.masked_fill_(finished & ~finite, Status.NONFINITE)
            self.last_eval.masked_fill_(finished, i)
            self.active = self.active & unfinished
        return self.present(improved)

    def present(self, mask: Tensor) -> Tensor:
        """The rows still computed of a (B,) tensor."""
        return mask if self.rows is None else mask[self.rows]

    def take(self, index: Tensor) -> None:
        """Go on with the samples `index` of those present."""
        self.rows = index if self.rows is None else self.rows[index]

    def solution(self, value: Tensor, evals: int) -> Solution:
        status = self.status.masked_fill(
            (self.status == Status.MAX_EVALS) & (self.best <= self.floor), Status.CONVERGED
        )
        stuck = (status == Status.MAX_EVALS) & (2 * self.best_eval < evals - 1)
        # Three evaluations or fewer say nothing about a trend.
        status = status.masked_fill(stuck, Status.STAGNATED) if evals > 3 else status
        sample_evals = self.last_eval.clamp_max(evals - 1) + 1
        return Solution(value, self.best, self.trace[:evals], evals, self.best_eval, status, sample_evals)


def iterate(
    f: Callable[[Tensor], Tensor],
    z0: Tensor,
    solver: StepRule,
    max_evals: int,
    rtol: float,
    atol: float,
    *,
    unit: Tensor | None = None,
    leave: bool = False,
    keep_f: bool = False,
) -> tuple[Solution, Tensor | None]:
    """The loop behind `search`, on flat states (B, N); a given `unit` (B,) replaces |f(z)| in the residual."""
    tracker = _Tracker(z0, max_evals, rtol, atol, unit)
    z = z0.clone(memory_format=torch.contiguous_format)  # z0 is the caller's, whatever f does to its argument
    best = BestState(z, keep_f)
    steps = solver.start(z, max_evals)
    tolerant = rtol > 0 or atol > 0
    leave = leave and tolerant and getattr(f, "take", None) is not None and hasattr(steps, "take")
    evals = 0
    while True:
        fz = f(z)
        # f may have returned a tensor it keeps, or z itself: never write into it.
        change = torch.sub(fz, z, out=steps.residual_buffer())
        best.update(z, fz, tracker.update(evals, change, fz))
        evals += 1
        unfinished = int(tracker.active.sum()) if tolerant else z0.shape[0]
        if evals == max_evals or (tolerant and unfinished == 0):
            value, f_value = best.result()
            return tracker.solution(value, evals), f_value
        z_next = best.next_buffer(z)
        # Our own matrix products must not be rounded to the half precision that is meant for f.
        with torch.autocast(z.device.type, enabled=False):
            steps.step(z, fz, z_next)
        del fz, change
        active = tracker.present(tracker.active)
        if leave and 4 * unfinished <= 3 * z.shape[0]:  # below a quarter, copying costs more than it saves
            index = active.nonzero()[:, 0]
            f, z_next = f.take(index), z_next[index]  # type: ignore[attr-defined]
            for part in (steps, best, tracker):
                part.take(index)  # type: ignore[union-attr]
        elif any_or_device(~active):
            torch.where(active[:, None], z_next, best.value, out=z_next)
        z = z_next


def _refuse_nonfinite(z0: Tensor, solution: Solution) -> None:
    """Raise ValueError if z0 is to blame for a solve that failed from the start. Looks only on the CPU."""
    if z0.device.type != "cpu":
        return
    failed = torch.isinf(solution.residual).nonzero()[:, 0]
    bad = [int(b) for b in failed if not bool(torch.isfinite(z0[b]).all())]
    if bad:
        raise ValueError(f"z0 holds inf or NaN in sample(s) {bad}; start from finite states, e.g. zeros")
