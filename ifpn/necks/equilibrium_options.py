"""What implicit necks are given beside G, and the mode in which they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ifpn.solvers import Stats


class FixedPointSolver(Protocol):
    """How z = f(z) is solved and differentiated: `ifpn.solvers.Equilibrium`, `Unroll`, or one's own."""

    def __call__(self, f: Callable[[Tensor], Tensor], z0: Tensor, /, *, training: bool) -> tuple[Tensor, Stats]:
        """Solve z = f(z), f from (N, D) to (N, D), starting at z0; return the state (N, D) and what happened."""
        ...


@dataclass(frozen=True, kw_only=True)
class EquilibriumOptions:
    """What implicit necks have in common beside G, as `ImplicitFPN` documents it."""

    solver: FixedPointSolver | None
    input_norm: bool
    add_input: bool
    jacobian_penalty: float
    compile: bool
    jacobian_every: float = 1.0
    random_start: float = 0.0


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; after it every part has its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
