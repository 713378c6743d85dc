"""The one loop: it calls f, measures residuals, keeps the best state, freezes what is finished, and stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ifpn.solvers.per_sample import Place, any_or_device, as_mask
from ifpn.solvers.solution import Map, Solution
from ifpn.solvers.state import BestState, FlatMap, check_state, flatten, refuse_transforms
from ifpn.solvers.step_rule import StepRule, check_budget, check_rule
from ifpn.solvers.tracker import Tracker


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
    tolerant = rtol > 0 or atol > 0
    tracker = Tracker(z0, max_evals, rtol, atol, unit, Place.of(z0, tolerant=tolerant))
    z = z0.clone(memory_format=torch.contiguous_format)  # z0 is the caller's, whatever f does to its argument
    best = BestState(z, keep_f)
    steps = solver.start(z, max_evals)
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
            index = as_mask(active, z).nonzero()[:, 0]
            f, z_next = f.take(index), z_next[index]  # type: ignore[attr-defined]
            for part in (steps, best, tracker):
                part.take(index)  # type: ignore[union-attr]
        elif any_or_device(~active):
            torch.where(as_mask(active, z)[:, None], z_next, best.value, out=z_next)
        z = z_next


def _refuse_nonfinite(z0: Tensor, solution: Solution) -> None:
    """Raise ValueError if z0 is to blame for a solve that failed from the start. Looks only on the CPU."""
    if z0.device.type != "cpu":
        return
    failed = [b for b, residual in enumerate(solution.residual.tolist()) if residual == float("inf")]
    if bad := [b for b in failed if not bool(torch.isfinite(z0[b]).all())]:
        raise ValueError(f"z0 holds inf or NaN in sample(s) {bad}; start from finite states, e.g. zeros")
