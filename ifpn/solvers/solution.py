"""What a solve reports: plain values, no behaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

Map = Callable[[Tensor], Tensor]
"""A map of a state onto a state of the same shape, (B, ...) -> (B, ...)."""


class Status(IntEnum):
    """How the solve of one sample ended. Failure is a value: no solver raises because it did not converge."""

    CONVERGED = 0
    MAX_EVALS = 1
    NONFINITE = 2
    STAGNATED = 3

    @property
    def meaning(self) -> str:
        """One sentence for a log or a progress bar."""
        return _MEANING[self]


_MEANING = {
    Status.CONVERGED: "the residual fell below the tolerance",
    Status.MAX_EVALS: "the budget was spent while the residual was still falling",
    Status.NONFINITE: "an evaluation gave inf or NaN; the best state before it was kept",
    Status.STAGNATED: "no state of the second half of the budget was better than the best of the first half",
}


@dataclass(frozen=True)
class Solution:
    """The result of one solve. Every tensor is detached and stays on the device of the state.

    The residual of a state z is |f(z) - z| / |f(z)|, Euclidean norms per sample over all its elements. (For
    the backward solve, the linear system u = g + Jᵀu, it is |g + Jᵀu - u| / |g|.)

    Attributes:
        value: (B, ...) best state of every sample, in the precision of the state.
        residual: (B,) float64, the residual of `value`; inf if no evaluation of the sample was finite.
        trace: (evals, B) float64, the residual at each evaluation; inf for a non-finite one. Once a sample
            has finished it is frozen and its best residual is repeated.
        evals: evaluations of f (or vector-Jacobian products) spent.
        best_eval: (B,) int64, row of `trace` at which the best state was found.
        status: (B,) int64, values of `Status`.
        sample_evals: (B,) int64, evaluations after which each sample was finished, at most `evals`; None where
            only the batch as a whole was counted.
    """

    value: Tensor
    residual: Tensor
    trace: Tensor
    evals: int
    best_eval: Tensor
    status: Tensor
    sample_evals: Tensor | None = None


@dataclass
class Stats:
    """What a differentiable solve did.

    Attributes:
        forward: of the search for the equilibrium. Its residual is that of the state z found; the value that
            `fixed_point` returns is f(z), one evaluation further.
        backward: of the adjoint solve; None until the backward pass has run, and for methods that solve
            nothing. Its `value` is empty (the solution lives on as the gradient only); its `residual` is
            exact once the backward pass has gone through f.
    """

    forward: Solution
    backward: Solution | None = None
