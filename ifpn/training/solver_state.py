"""Solvers that depend on the step of the training, or learn from it: told the step, kept in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class StepAware(Protocol):
    """A neck's `solver` that has these three methods takes part; others need none of it."""

    def at_step(self, step: int, max_steps: int) -> None:
        """Called before each training batch: optimiser step `step`, from 0, of `max_steps`."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors that a resumed run needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""


def step_aware_solvers(module: nn.Module) -> dict[str, StepAware]:
    """{name of the module that holds it: solver}."""
    held = {name: getattr(part, "solver", None) for name, part in module.named_modules()}
    return {name: solver for name, solver in held.items() if isinstance(solver, StepAware)}
