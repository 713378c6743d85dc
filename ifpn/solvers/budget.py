"""How much a training step spends on the equilibrium, chosen by the spectral radius measured while training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ifpn.bounds import Ge, Gt, Le, check
from ifpn.solvers.fixed_point import Backward, check_backward

Regime = Literal["easy", "normal", "hard"]
HYSTERESIS = 0.1  # a radius must fall this far below a border until less is spent again
READINGS = 3  # the median of so many decides


@check
@dataclass(frozen=True)
class Budget:
    """What to spend beyond, or up to, a spectral radius.

    Args:
        radius: the border.
        train_evals: evaluations of f that search.
        backward: how to differentiate.
    """

    radius: Annotated[float, Gt(0), Le(2)]
    train_evals: Annotated[int, Ge(1), Le(1000)]
    backward: Backward

    def __post_init__(self) -> None:
        check_backward("Budget", self.backward)


@dataclass
class Progress:
    """Where a training is, as far as its solver cares.

    Attributes:
        unrolled: the warm-up is on.
        radius_due: the spectral radius is to be measured in this step.
        regime: which budget is used. "normal" until the first reading.
        readings: the last measured radii.
    """

    unrolled: bool = False
    radius_due: bool = False
    regime: Regime = "normal"
    readings: list[float] = field(default_factory=list)

    @property
    def radius(self) -> float | None:
        """The median of the last three readings; None before there are three."""
        return statistics.median(self.readings) if len(self.readings) == READINGS else None

    def observe(self, radius: float, easy: Budget | None, hard: Budget | None) -> None:
        """Take a reading into account. One that is not finite says that there is no fixed point: above any border."""
        first = not self.readings
        self.readings = [*self.readings, radius if math.isfinite(radius) else math.inf][-READINGS:]
        median = statistics.median(self.readings)
        easy_up_to = easy.radius if easy is not None else -math.inf
        hard_from = hard.radius if hard is not None else math.inf
        if not first:  # coming back asks for more than leaving
            easy_up_to -= HYSTERESIS * (self.regime != "easy")
            hard_from -= HYSTERESIS * (self.regime == "hard")
        self.regime = "easy" if median <= easy_up_to else "hard" if median > hard_from else "normal"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; the rest follows from the step."""
        return {"regime": self.regime, "readings": list(self.readings)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; nothing, from a run without such a state."""
        if state:
            self.regime, self.readings = state["regime"], [float(r) for r in state["readings"]]
