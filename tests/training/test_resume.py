"""A run that is killed and resumed leaves what the uninterrupted run leaves: same weights, same metrics."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ifpn.runs.checkpoint import read_checkpoint
from tests.training.harness import STEPS, TWO_RANKS, Kill, configuration, tensors_hash, train_in_processes

pytestmark = pytest.mark.process

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


def uninterrupted(data: Path, folder: Path, ranks: int, *overrides: str) -> Path:
    assert train_in_processes(configuration(data, folder, *overrides), ranks=ranks) == [0] * ranks
    return folder


def killed_and_resumed(data: Path, folder: Path, ranks: int, kills: list[tuple[str, int]], *overrides: str) -> Path:
    for number, (point, step) in enumerate(kills):
        resume = ["ckpt=last"] if number else []
        cfg = configuration(data, folder, *overrides, *resume)
        codes = train_in_processes(cfg, Kill(point, step), ranks=ranks)
        assert -9 in codes, (point, step, codes, Path(f"{folder}.rank0.log").read_text())
    cfg = configuration(data, folder, *overrides, "ckpt=last")
    codes = train_in_processes(cfg, ranks=ranks)
    assert codes == [0] * ranks, Path(f"{folder}.rank0.log").read_text()
    return folder


def assert_same(first: Path, second: Path) -> None:
    assert tensors_hash(second / "last.ckpt") == tensors_hash(first / "last.ckpt")
    assert tensors_hash(second / "best.ckpt") == tensors_hash(first / "best.ckpt")
    assert (second / "metrics.csv").read_text() == (first / "metrics.csv").read_text()


@pytest.fixture(scope="module")
def whole(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uninterrupted(small_data, tmp_path_factory.mktemp("run") / "whole", 1)


def test_killed_anywhere_and_resumed_is_bit_identical(whole: Path, small_data: Path, tmp_path: Path) -> None:
    assert_same(whole, killed_and_resumed(small_data, tmp_path / "killed", 1, KILLS))


def test_every_step_and_every_validation_has_one_row(whole: Path) -> None:
    with open(whole / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows if r["train/loss"]] == list(range(STEPS))
    assert [int(r["step"]) for r in rows if r["val/AP"]] == [4, 9]
    assert [int(r["epoch"]) for r in rows if r["train/loss"]] == [0] * 5 + [1] * 5


def test_loader_workers_change_nothing_killed_or_not(whole: Path, small_data: Path, tmp_path: Path) -> None:
    assert_same(
        whole, killed_and_resumed(small_data, tmp_path / "killed", 1, [("gradient", 4), ("start", 7)], "data.workers=2")
    )


def test_two_processes(small_data: Path, tmp_path: Path) -> None:
    """Both ranks are killed at once, as by a power cut; in the second life one epoch is left."""
    first = uninterrupted(small_data, tmp_path / "whole", 2, *TWO_RANKS)
    second = killed_and_resumed(small_data, tmp_path / "killed", 2, [("gradient", 3), ("validation", 5)], *TWO_RANKS)
    assert_same(first, second)


@pytest.mark.parametrize(
    ("accumulate", "kills"),
    [
        (1, [("gradient", 4), ("start", 8)]),
        (3, [("start", 3)]),  # the first batches after the resume do not step, and must not count for the average
    ],
)
def test_the_average_of_the_weights_resumes_too_and_is_what_is_saved(
    accumulate: int, kills: list[tuple[str, int]], small_data: Path, tmp_path: Path
) -> None:
    more = ("callbacks=ema", "callbacks.ema.decay=0.5", f"trainer.accumulate_grad_batches={accumulate}")
    more += ("schedule.val_every=2",) if accumulate == 1 else ()
    first = uninterrupted(small_data, tmp_path / "whole", 1, *more)
    second = killed_and_resumed(small_data, tmp_path / "killed", 1, kills, *more)
    assert_same(first, second)
    saved = read_checkpoint(first / "last.ckpt")
    assert any(not saved["state_dict"][n].equal(w) for n, w in saved["training_weights"].items())


def test_accumulated_gradients(small_data: Path, tmp_path: Path) -> None:
    more = ("trainer.accumulate_grad_batches=2", "callbacks.last.every_n_steps=1")
    first = uninterrupted(small_data, tmp_path / "whole", 1, *more)
    second = killed_and_resumed(small_data, tmp_path / "killed", 1, [("gradient", 1), ("gradient", 4)], *more)
    assert_same(first, second)


SCHEDULED = (
    "solver=fast", "solver.warmup=0.4", "solver.random_evals=[2,5]", "solver.easy=null", "solver.hard=null"
)  # fmt: skip
CHOSEN = (
    "solver=fast",
    "solver.warmup=2",
    "solver.radius_every=2",
    "solver.easy.radius=0.1",
    "solver.hard.radius=0.15",
)


@pytest.mark.parametrize("more", [SCHEDULED, CHOSEN], ids=["warm-up, random budgets and starts", "budget by radius"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_solver_that_changes_while_training(
    ranks: int, more: tuple[str, ...], small_data: Path, tmp_path: Path
) -> None:
    """Killed in the warm-up, at its end, after a measurement and in the last step."""
    more += TWO_RANKS if ranks == 2 else ()
    first = uninterrupted(small_data, tmp_path / "whole", ranks, *more)
    kills = [("gradient", 1), ("start", 4), ("gradient", 7)] if ranks == 1 else [("gradient", 3)]
    assert_same(first, killed_and_resumed(small_data, tmp_path / "killed", ranks, kills, *more))
    with open(first / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    unrolled = [float(r["solver/unrolled"]) for r in rows if r.get("solver/unrolled")]
    end = 4 if more[1] == "solver.warmup=0.4" else 2
    assert unrolled == [1.0] * end + [0.0] * (STEPS - end)
    if "solver.radius_every=2" in more:
        assert [int(r["step"]) for r in rows if r.get("solver/spectral_radius")] == [2, 4, 6, 8]
        assert read_checkpoint(first / "last.ckpt")["ifpn"]["solver"]["readings"]
