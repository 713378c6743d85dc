"""Protocol between the loop and a method.

A step rule proposes the next state; evaluating f, residuals and stopping are the loop's job.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Protocol

from torch import Tensor


class Steps(Protocol):
    """The running state of a step rule within one solve."""

    def residual_buffer(self) -> Tensor:
        """(B, N) buffer that receives f(z) - z of the coming step. Called once per evaluation."""
        ...

    def step(self, z: Tensor, fz: Tensor, out: Tensor) -> None:
        """Write the state after z (B, N) to `out` (B, N), which may be z itself. `residual_buffer` holds fz - z.

        Samples must not mix. Samples that are already finished may get any value: the loop puts them back. A
        method `take(index)` is optional: it goes on with the samples `index` (b,), ascending, alone. Without it
        finished samples are computed to the end.
        """
        ...


class StepRule(Protocol):
    """A solver: the parameters of a step rule."""

    def start(self, z0: Tensor, max_evals: int) -> Steps:
        """Allocate for one solve from z0 (B, N)."""
        ...


def check_rule(owner: str, solver: object) -> None:
    """Raise TypeError unless `solver` is a step rule."""
    if isinstance(solver, type) or not callable(getattr(solver, "start", None)):
        raise TypeError(f"{owner}: solver must be Broyden(), Anderson() or Picard(), got {solver!r}")


def check_count(name: str, value: object) -> int:
    """Return `value` as an int; raise ValueError unless it is a whole number, at least 1. NumPy's count, too."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")
    return int(value)


def check_budget(name: str, value: object, tolerances: dict[str, object]) -> int:
    """Return `value` as an int; raise ValueError for a budget below 1, or a tolerance that is none."""
    for key, tolerance in tolerances.items():
        if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not float(tolerance) >= 0:
            raise ValueError(f"{key} must be 0 (no tolerance) or a positive number, got {tolerance!r}")
    return check_count(name, value)
