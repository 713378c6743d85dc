"""What a network holds: how to turn f into its pyramid, in training and in evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from ifpn.bounds import Ge, Le, check
from ifpn.solvers.anderson import Anderson
from ifpn.solvers.batched import accumulation_dtype
from ifpn.solvers.fixed_point import Backward, Forward, Implicit, check_backward, fixed_point
from ifpn.solvers.repeat import repeat
from ifpn.solvers.solution import Map, Solution, Stats, Status
from ifpn.solvers.state import check_state, own_copy
from ifpn.solvers.step_rule import StepRule, check_rule


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
        backward: how to differentiate.
    """

    forward: StepRule = field(default_factory=Anderson)
    train_evals: Annotated[int, Ge(1), Le(1000)] = 15
    test_evals: Annotated[int, Ge(1), Le(1000)] = 7
    rtol: Annotated[float, Ge(0), Le(1)] = 0.0
    atol: Annotated[float, Ge(0)] = 0.0
    backward: Backward = field(default_factory=Implicit)

    def __post_init__(self) -> None:
        check_rule("Equilibrium", self.forward)
        check_backward("Equilibrium", self.backward)

    def __call__(self, f: Map, z0: Tensor, *, training: bool) -> tuple[Tensor, Stats]:
        """Solve z = f(z) from z0 (B, ...), see `fixed_point`. `training` chooses the budget, nothing else."""
        evals = self.train_evals if training else self.test_evals
        search = Forward(self.forward, evals, self.rtol, self.atol)
        return fixed_point(f, z0, forward=search, backward=self.backward)


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
