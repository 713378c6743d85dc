"""What must not change: memory over hundreds of steps, losses between fp32 and bf16, the learning rate's plan."""

from __future__ import annotations

import csv
import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from tests.training.harness import BATCHES, Call, configuration, train_here

pytestmark = pytest.mark.process


def column(folder: Path, name: str) -> list[float]:
    with open(folder / "metrics.csv") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


class Census(Call):
    """Open files and live tensors after given numbers of steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.counts: list[tuple[int, int]] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step in self.steps:
            gc.collect()
            files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
            self.counts.append((files, sum(isinstance(o, torch.Tensor) for o in gc.get_objects())))


@pytest.mark.filterwarnings("ignore")  # gc.get_objects touches lazily deprecated attributes of other libraries
def test_three_hundred_steps_leave_nothing_behind(small_data: Path, tmp_path: Path) -> None:
    census = Census(161, 311)
    cfg = configuration(
        small_data, tmp_path / "run", "schedule.max_epochs=null", "schedule.max_steps=312", "schedule.val_every=150",
        "callbacks=ema", "callbacks.nonfinite.policy=skip", "callbacks.last.every_n_steps=100",
    )  # fmt: skip
    train_here(cfg, census)
    (files, tensors), (files_later, tensors_later) = census.counts
    assert files_later <= files
    # Both are eleven steps after a validation, whose numbers are held until the next one.
    assert tensors_later <= tensors + 5


def test_bf16_and_fp32_losses_agree(small_data: Path, tmp_path: Path) -> None:
    """20 steps from the same weights; bf16 has 8 bits: 2 % is what several layers of its rounding leave."""
    for precision in ("32-true", "bf16-mixed"):
        train_here(
            configuration(small_data, tmp_path / precision, "schedule.max_epochs=4", f"trainer.precision={precision}")
        )
    exact, rounded = (column(tmp_path / p, "train/loss") for p in ("32-true", "bf16-mixed"))
    assert len(exact) == 4 * BATCHES
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)


def test_the_learning_rate_of_every_step_is_the_recipes_also_after_a_resume(small_data: Path, tmp_path: Path) -> None:
    """Stopped in the warm-up, three steps after its last checkpoint but one, and continued."""
    settings = (
        "recipe=paper", "schedule.max_steps=10", "schedule.max_epochs=null",
        "schedule.curve.milestones=[6,8]", "schedule.curve.warmup_steps=4", "schedule.val_every=10",
        "data.batch_size=2", "schedule.base_batch_size=2",
    )  # fmt: skip
    cfg = configuration(small_data, tmp_path / "run", *settings)

    def stop(*_: Any) -> None:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        train_here(cfg, Call(3, stop))
    train_here(configuration(small_data, tmp_path / "run", *settings, "ckpt=last"))
    recipe = instantiate(cfg.schedule)
    expected = [0.01 * recipe.curve.factor(step, 10) for step in range(10)]
    with open(tmp_path / "run" / "metrics.csv") as file:
        (name,) = [n for n in csv.DictReader(file).fieldnames or [] if n.endswith("pg1")]
    # 1e-6: the logger stores float32.
    assert column(tmp_path / "run", name) == pytest.approx(expected, rel=1e-6)
