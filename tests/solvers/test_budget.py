"""What a training spends on the equilibrium: warm-up, random budgets, and the choice by the spectral radius."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ifpn.errors import UserError
from ifpn.solvers import Anderson, Budget, Equilibrium, Implicit, Neumann, OneStep, Unrolled
from ifpn.solvers.budget import Progress

EASY, HARD = Budget(0.6, 4, Implicit(Neumann(), 2)), Budget(0.8, 10, Implicit(max_vjps=9))


def regimes(*radii: float, easy: Budget | None = EASY, hard: Budget | None = HARD) -> list[str]:
    progress = Progress()
    seen: list[str] = []
    for radius in radii:
        progress.observe(radius, easy, hard)
        seen.append(progress.regime)
    return seen


def test_the_first_reading_decides_by_the_borders_alone() -> None:
    assert [regimes(r)[0] for r in (0.6, 0.61, 0.8, 0.81, math.inf, math.nan)] == [
        "easy", "normal", "normal", "hard", "hard", "hard"
    ]  # fmt: skip
    assert regimes(0.1, easy=None) == regimes(0.9, hard=None) == ["normal"]


def test_coming_back_asks_for_more_than_leaving() -> None:
    # Medians of the last three: 0.54, 0.595, 0.65, 0.65, 0.65, 0.54, 0.54, 0.44.
    assert regimes(0.54, 0.65, 0.65, 0.65, 0.54, 0.54, 0.44, 0.44) == [
        "easy", "easy", "normal", "normal", "normal", "normal", "normal", "easy"
    ]  # fmt: skip
    assert regimes(0.85, 0.75, 0.75, 0.65, 0.65) == ["hard", "hard", "hard", "hard", "normal"]


def test_one_wild_reading_changes_nothing() -> None:
    assert regimes(0.5, 0.5, math.nan, 0.5) == ["easy"] * 4


def spent(solver: Equilibrium) -> int:
    """Evaluations of f in one training step."""
    calls = []
    weight = torch.tensor(0.5, requires_grad=True)

    def f(z: Tensor) -> Tensor:
        calls.append(1)
        return torch.tanh(weight * z + 1)

    z, _ = solver(f, torch.zeros(1, 3), training=True)
    z.sum().backward()
    return len(calls)


def test_each_regime_spends_its_budget() -> None:
    solver = Equilibrium(Anderson(3), 6, 7, backward=Implicit(max_vjps=5), easy=EASY, hard=HARD)
    found = {}
    for radius in (0.7, 0.3, 0.95):
        solver.progress.readings = []
        solver.observe(radius)
        found[solver.progress.regime] = spent(solver)
    assert found == {"normal": 7, "easy": 5, "hard": 11}  # and the graded one


def test_warm_up_unrolls_and_evaluation_never_does() -> None:
    solver = Equilibrium(train_evals=6, test_evals=3, backward=OneStep(), warmup=0.25, warmup_evals=2)
    counts = []
    for step in range(8):
        solver.at_step(step, 8)
        counts.append(spent(solver))
    assert counts == [2] * 2 + [7] * 6
    solver.at_step(0, 8)
    _, stats = solver(lambda z: 0.5 * z + 1, torch.zeros(1, 3), training=False)
    assert stats.forward.evals == 3
    solver = Equilibrium(train_evals=6, backward=OneStep(), warmup=3)  # a number of steps
    assert [(solver.at_step(step, 1000), solver.progress.unrolled)[1] for step in range(5)] == [True] * 3 + [False] * 2


def test_random_budgets_are_drawn_from_torchs_generator() -> None:
    solver = Equilibrium(train_evals=6, backward=Unrolled(1), random_evals=(2, 5))
    draws = []
    for seed in [*range(40), 0]:
        torch.manual_seed(seed)
        draws.append(spent(solver) - 1)
    assert set(draws) == {2, 3, 4, 5}
    assert draws[-1] == draws[0]


def test_state_comes_back() -> None:
    first = Equilibrium(easy=EASY)
    for radius in (0.5, 0.4):
        first.observe(radius)
    second = Equilibrium(easy=EASY)
    second.load_state_dict(first.state_dict())
    assert second.progress == first.progress
    Equilibrium(easy=EASY).load_state_dict({})  # a checkpoint from before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"warmup": 2.5}, r"^warmup=2.5: must be a share"),
        ({"warmup": -1}, r"^warmup=-1: must be"),
        ({"random_evals": [5, 2]}, r"^random_evals=\[5, 2\]: the first must be at most"),
        ({"random_evals": [5]}, r"^random_evals=\[5\]: must be a list"),
        ({"random_evals": [2, 5], "easy": EASY}, r"^random_evals: must be null with easy or hard"),
        ({"easy": HARD, "hard": EASY}, r"^easy.radius=0.8: must be below hard.radius=0.6"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Equilibrium(**settings)  # type: ignore[arg-type]
