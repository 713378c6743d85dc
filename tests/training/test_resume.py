"""A run that is killed and resumed leaves what the uninterrupted run leaves: same weights, same metrics."""

from __future__ import annotations

import csv
import random
from itertools import combinations
from pathlib import Path

import pytest

from benchmarks.lives import Kill
from benchmarks.resume_trial import FACTORS, SETTINGS, Trial, covering_array, differences, moments, trials
from ifpn.runs.checkpoint import read_checkpoint
from tests.training.harness import STEPS, build_tiny, configuration, train_in_processes

pytestmark = pytest.mark.process

# The tiny network is no detector; what takes long is left to the script, and many kills to the test of `KILLS`.
TRIED = {f: [x for x in levels if x not in ("2, by Lightning", "any moment", "twice")] for f, levels in FACTORS.items()}
TRIED |= {"solver": ["fast", "fast, changing"], "detector": ["retina"]}
ARRAY = covering_array(TRIED, 8, random.Random(0))

# (where, after how many optimiser steps): one run is killed at all of these, one after the other.
KILLS = [
    ("start", 1),  # before the first checkpoint
    ("gradient", 3),  # between two checkpoints
    ("validation", 5),  # the end of the first epoch
    ("write", 6),  # a checkpoint written but not yet in its place
    ("start", 6),
    ("validation", 10),  # the last validation
    ("end", 10),  # nothing but the report left to do
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def whole(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "whole"
    assert train_in_processes(configuration(small_data, folder)) == [0]
    return folder


def killed_and_resumed(data: Path, folder: Path, kills: list[tuple[str, int]], *overrides: str) -> Path:
    for number, (point, step) in enumerate(kills):
        resume = ["ckpt=last"] if number else []
        codes = train_in_processes(configuration(data, folder, *overrides, *resume), Kill(point, step))
        assert codes == [-9], (point, step, Path(f"{folder}.rank0.log").read_text())
    assert train_in_processes(configuration(data, folder, *overrides, "ckpt=last")) == [0]
    return folder


def test_killed_anywhere_and_resumed_is_bit_identical(whole: Path, small_data: Path, tmp_path: Path) -> None:
    assert not differences(whole, killed_and_resumed(small_data, tmp_path / "killed", KILLS))


def test_every_step_and_every_validation_has_one_row(whole: Path) -> None:
    with open(whole / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows if r["train/loss"]] == list(range(STEPS))
    assert [int(r["step"]) for r in rows if r["val/AP"]] == [4, 9]
    assert [int(r["epoch"]) for r in rows if r["train/loss"]] == [0] * 5 + [1] * 5


@pytest.mark.parametrize("number", range(8))
def test_a_covering_array_of_options_and_kills(number: int, runs: Path) -> None:
    """Average, accumulation, skipped steps, workers, ranks, kills: every two levels of two of them meet."""
    draw = random.Random(number)
    trial = Trial(ARRAY[number], moments(ARRAY[number], draw), [*SETTINGS, f"data.root={runs}/data"], build_tiny)
    whole, seconds = trial.whole(runs)
    assert trial.killed(runs / f"trial_{number}", seconds, draw) == len(trial.ends)
    assert not differences(whole, runs / f"trial_{number}")
    saved = read_checkpoint(whole / "last.ckpt")
    averaged = [not saved["state_dict"][n].equal(w) for n, w in saved.get("training_weights", {}).items()]
    assert any(averaged) == (trial.levels["average"] == "yes")


def test_the_arrays_hold_every_pair_of_levels() -> None:
    for factors, array in ((TRIED, ARRAY), (FACTORS, [trial.levels for trial in trials(60, 0, [])])):
        for (f, first), (g, second) in combinations(factors.items(), 2):
            assert {(row[f], row[g]) for row in array} == {(a, b) for a in first for b in second}
    assert (len(ARRAY), len(array)) == (8, 60)


CHOSEN = (
    "solver=fast",
    "solver.warmup=2",
    "solver.radius_every=2",
    "solver.easy.radius=0.1",
    "solver.hard.radius=0.15",
)


def test_a_solver_that_measures_while_training(small_data: Path, tmp_path: Path) -> None:
    """Killed in the warm-up, before and after a measurement."""
    first = tmp_path / "whole"
    assert train_in_processes(configuration(small_data, first, *CHOSEN)) == [0]
    kills = [("gradient", 1), ("start", 4), ("gradient", 7)]
    assert not differences(first, killed_and_resumed(small_data, tmp_path / "killed", kills, *CHOSEN))
    with open(first / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    unrolled = [float(r["solver/unrolled"]) for r in rows if r.get("solver/unrolled")]
    assert unrolled == [1.0] * 2 + [0.0] * (STEPS - 2)
    assert [int(r["step"]) for r in rows if r.get("solver/spectral_radius")] == [2, 4, 6, 8]
    assert read_checkpoint(first / "last.ckpt")["ifpn"]["solver"]["readings"]
