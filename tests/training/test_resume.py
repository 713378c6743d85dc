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

pytestmark = [
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

LEFT_OUT = ("solver", "detector")  # of the tiny network
SLOW = ("2, by Lightning", "any moment")
TRIED = {f: [x for x in levels if x not in SLOW] for f, levels in FACTORS.items() if f not in LEFT_OUT}
ARRAY = covering_array(TRIED, 8, random.Random(18))  # a seed with which eight rows are enough

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


def test_killed_anywhere_and_resumed_is_bit_identical(whole: Path, small_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    for number, (point, step) in enumerate(KILLS):
        resume = ["ckpt=last"] if number else []
        codes = train_in_processes(configuration(small_data, folder, *resume), Kill(point, step))
        assert codes == [-9], (point, step, Path(f"{folder}.rank0.log").read_text())
    assert train_in_processes(configuration(small_data, folder, "ckpt=last")) == [0]
    assert not differences(whole, folder)


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
