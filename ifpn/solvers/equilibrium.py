"""What a network holds: how to turn f into its pyramid, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from ifpn.bounds import Count, Ge, Gt, Le, Length, check
from ifpn.errors import UserError
from ifpn.solvers.anderson import Anderson
from ifpn.solvers.batched import accumulation_dtype
from ifpn.solvers.budget import Budget, Progress
from ifpn.solvers.fixed_point import Backward, Forward, Implicit, check_backward, fixed_point
from ifpn.solvers.repeat import repeat
from ifpn.solvers.solution import Map, Solution, Stats, Status
from ifpn.solvers.state import check_state, own_copy
from ifpn.solvers.step_rule import StepRule, check_rule

LARGEST_RESIDUAL = 0.5  # half of what zero has: above it a state is too far away to go by an estimate
Evals = Annotated[int, Ge(1), Le(1000)]


@check
@dataclass(frozen=True)
class Equilibrium:
    """The fixed point of f (paper Sec. 3.3), with a budget for training and one for evaluation.

    Args:
        forward: step rule, Broyden(), Anderson() or Picard(). Its alpha, beta or tau is the damping.
        train_evals: evaluations of f that search the equilibrium in training; one more, with autograd, gives the value.
        test_evals: the same in evaluation. (Without gradients the value costs nothing more.)
        rtol, atol: stop early at |f(z) - z| <= max(atol, rtol |f(z)|); 0 never stops early. Under bfloat16
            autocast a tolerance below 5e-3 cannot be met.
        test_rtol: `rtol` in evaluation; None: the same.
        test_error: of a network for which one evaluation from a fitted start leaves a relative error of at most this
            in the median image, by estimate, a search stops there: the residual times the contraction measured with
            the fit. Others, and all with None, stop by `test_rtol`.
        backward: how to differentiate.
        warmup: a training begins with `warmup_evals` plain evaluations and ordinary backpropagation (`Unroll`): for
            this share of its steps, below 1, or this number of steps. As IFR does, by two of the paper's authors.
        warmup_evals: evaluations in the warm-up.
        random_evals: (least, most) evaluations that search in training, drawn for each step in place of
            `train_evals`, so that no single budget is learned by heart.
        easy: spends less where the spectral radius is at most `easy.radius`.
        hard: spends more where it is above `hard.radius`.
        fit_start: training images to which the first state of evaluation is fitted when a network has been trained
            (`EquilibriumNeck.fitting_start`); 0: evaluation starts from zero, even where there is a fitted start.
        radius_every: steps from one measurement of the radius to the next, if `easy` or `hard` asks for it.

    Warm-up and choice need to be told the step and the radius (`at_step`, `observe`), as `ifpn.training` does; without
    it they never happen. Evaluation depends on neither. It is the caller, too, who fits the start and passes it as z0.
    """

    forward: StepRule = field(default_factory=Anderson)
    train_evals: Annotated[int, Ge(1), Le(1000)] = 15
    test_evals: Annotated[int, Ge(1), Le(1000)] = 7
    rtol: Annotated[float, Ge(0), Le(1)] = 0.0
    atol: Annotated[float, Ge(0)] = 0.0
    backward: Backward = field(default_factory=Implicit)
    test_rtol: Annotated[float, Ge(0), Le(1)] | None = None
    test_error: Annotated[float, Gt(0), Le(1)] | None = None
    warmup: Annotated[float, Ge(0), Le(1e9)] = 0.0
    warmup_evals: Annotated[int, Ge(1), Le(1000)] = 2
    random_evals: Annotated[Sequence[Evals], Length(2, 2)] | None = None
    easy: Budget | None = None
    hard: Budget | None = None
    radius_every: Count = 100
    fit_start: Annotated[int, Ge(0), Le(10_000)] = 0
    progress: Progress = field(default_factory=Progress, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_rule("Equilibrium", self.forward)
        check_backward("Equilibrium", self.backward)
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise UserError(f"warmup={self.warmup}: must be a share of the steps, below 1, or a whole number of steps.")
        if self.random_evals is not None:
            low, high = self.random_evals
            object.__setattr__(self, "random_evals", (low, high))
            if low > high:
                raise UserError(f"random_evals=[{low}, {high}]: the first must be at most the second.")
            if self.easy is not None or self.hard is not None:
                raise UserError("random_evals: must be null with easy or hard, which choose the evaluations.")
        if self.easy is not None and self.hard is not None and self.easy.radius >= self.hard.radius:
            raise UserError(f"easy.radius={self.easy.radius}: must be below hard.radius={self.hard.radius}.")

    def at_step(self, step: int, max_steps: int) -> None:
        """Say that the next training step is number `step`, from 0, of `max_steps`."""
        end = self.warmup if self.warmup >= 1 else self.warmup * max_steps
        self.progress.unrolled = step < end
        self.progress.radius_due = (self.easy or self.hard) is not None and step > 0 and step % self.radius_every == 0

    def observe(self, radius: float) -> None:
        """Take a measured spectral radius into account."""
        self.progress.observe(radius, self.easy, self.hard)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs, plain values."""
        return self.progress.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.progress.load_state_dict(state)

    def __call__(self, f: Map, z0: Tensor, *, training: bool, contraction: float | None = None) -> tuple[Tensor, Stats]:
        """Solve z = f(z) from z0 (B, ...), see `fixed_point`. `training` chooses the budget, nothing else.

        contraction: |f(z) - z*| / |f(z) - z| near z*, where it is known; for `test_error`.
        """
        if training and self.progress.unrolled:
            return Unroll(self.warmup_evals)(f, z0, training=True)
        evals, backward = self._spend() if training else (self.test_evals, self.backward)
        rtol = self.rtol if training or self.test_rtol is None else self.test_rtol
        if not training and contraction is not None and self.test_error is not None:
            rtol = min(LARGEST_RESIDUAL, self.test_error / max(contraction, 1e-6))
        return fixed_point(f, z0, forward=Forward(self.forward, evals, rtol, self.atol), backward=backward)

    def _spend(self) -> tuple[int, Backward]:
        """Evaluations and gradient of the next training step."""
        budget = {"easy": self.easy, "normal": None, "hard": self.hard}[self.progress.regime]
        if budget is not None:
            return budget.train_evals, budget.backward
        if self.random_evals is not None:
            low, high = self.random_evals
            return int(torch.randint(low, high + 1, ())), self.backward
        return self.train_evals, self.backward


@check
@dataclass(frozen=True)
class Unroll:
    """`steps` plain evaluations z <- f(z) and ordinary backpropagation through all of them (paper Tab. 2).

    The same number of steps in training and in evaluation. steps = 0 returns z0.
    """

    steps: Annotated[int, Ge(0), Le(1000)] = 2

    def __call__(self, f: Map, z0: Tensor, *, training: bool) -> tuple[Tensor, Stats]:
        """Evaluate f `steps` times from z0 (B, ...). `training` changes nothing.

        The residual in the stats is that of the last evaluation's argument: inf if there was none, or if it was not
        finite; that sample then keeps the state before, with Status.NONFINITE, and gives no gradient.
        """
        check_state(z0)
        if self.steps == 0:
            return z0, Stats(self._solution(z0, []))
        none = torch.zeros(z0.shape[:1], dtype=torch.bool, device=z0.device)
        trace: list[Tensor] = []
        z, _ = repeat(f, own_copy(z0), self.steps, none, original=z0, residuals=trace)
        return z, Stats(self._solution(z, trace))

    def _solution(self, z: Tensor, trace: list[Tensor]) -> Solution:
        batch = z.shape[0]
        last = trace[-1] if trace else z.new_full((batch,), torch.inf, dtype=accumulation_dtype(z.device))
        rows = torch.stack(trace) if trace else last.new_empty(0, batch)
        status = torch.where(torch.isfinite(last) | (self.steps == 0), int(Status.MAX_EVALS), int(Status.NONFINITE))
        evals = torch.full_like(status, max(self.steps - 1, 0))
        return Solution(z.detach(), last, rows, self.steps, evals, status)
