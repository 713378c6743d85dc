"""A loss that is not finite on one rank: both decide the same, nothing hangs, evidence is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.lives import tensors_hash
from ifpn.runs.checkpoint import read_checkpoint
from ifpn.training.callbacks.nonfinite import NonFiniteError
from tests.training.harness import STEPS, TWO_RANKS, Call, break_loss, configuration, train_here, train_in_processes

pytestmark = pytest.mark.process
SKIP = "callbacks.nonfinite.policy=skip"


def break_gradient(trainer: Any, module: Any) -> None:
    """A finite loss with a gradient that is not."""

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        handle.remove()
        return gradient * float("inf")

    handle = module.detector.head.weight.register_hook(hook)


class Recorder(Call):
    """Weights, buffers and optimiser state around the step after `step` steps."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.states: list[list[torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step in (self.step, self.step + 1):
            values = [*pl_module.state_dict().values()]
            values += [v for s in trainer.optimizers[0].state.values() for v in s.values()]
            self.states.append([v.clone() for v in values])


@pytest.mark.parametrize("broken", [break_loss, break_gradient])
def test_a_skipped_step_changes_nothing(broken: Any, small_data: Path, tmp_path: Path) -> None:
    recorder = Recorder(3)
    train_here(configuration(small_data, tmp_path / "run", SKIP), recorder, Call(3, broken))
    before, after = recorder.states
    assert len(before) == len(after) > 20
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    final = read_checkpoint(tmp_path / "run" / "last.ckpt")
    assert final["global_step"] == STEPS  # the step counts, so that the learning rate keeps its plan
    names = list(final["state_dict"])
    assert not torch.equal(final["state_dict"]["detector.head.weight"], after[names.index("detector.head.weight")])
    (evidence,) = (tmp_path / "run" / "nonfinite").iterdir()
    told = json.loads(evidence.read_text())
    assert told["step"] == 3
    assert len(told["image_ids"]) == 2
    assert told["what"] == ("loss" if broken is break_loss else "gradient")
    assert told["solver"]["forward_evals"] > 0


def test_a_skipped_step_does_not_enter_the_average(small_data: Path, tmp_path: Path) -> None:
    """Nor do the batches after it that only accumulate gradients."""
    weights: dict[int, torch.Tensor] = {}

    def note(trainer: Any, module: Any) -> None:
        weights.setdefault(trainer.global_step, module.detector.head.weight.detach().clone())

    more = ("callbacks=ema", "callbacks.ema.decay=0.5", "trainer.accumulate_grad_batches=2", SKIP)
    notes = [Call(step, note) for step in range(STEPS)]
    train_here(configuration(small_data, tmp_path / "run", *more), Call(2, break_loss), *notes)
    saved = read_checkpoint(tmp_path / "run" / "last.ckpt")
    average = weights[0]
    weights[len(weights)] = saved["training_weights"]["detector.head.weight"]
    for step in range(1, len(weights)):
        if step != 3:
            average = average.lerp(weights[step], 1 - min(0.5, (1 + step) / (10 + step)))
    assert torch.equal(weights[2], weights[3])
    assert torch.equal(saved["state_dict"]["detector.head.weight"], average)


def test_raise_stops_before_the_weights_change(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"the loss is not finite in step 3: see .*step_00000003_rank_0"):
        train_here(configuration(small_data, tmp_path / "run"), Call(3, break_loss))
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 2


def test_skipping_is_bounded(small_data: Path, tmp_path: Path) -> None:
    cfg = configuration(small_data, tmp_path / "run", SKIP, "callbacks.nonfinite.max_skipped=1")
    with pytest.raises(NonFiniteError, match="max_skipped=1"):
        train_here(cfg, Call(3, break_loss), Call(5, break_loss))


@pytest.mark.parametrize(("policy", "codes"), [("skip", [0, 0]), ("raise", [1, 1])])
def test_nan_on_one_of_two_ranks(policy: str, codes: list[int], small_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    cfg = configuration(
        small_data, folder, *TWO_RANKS,
        f"callbacks.nonfinite.policy={policy}", "callbacks.last.every_n_steps=1",
    )  # fmt: skip
    assert train_in_processes(cfg, Call(3, break_loss, rank=1), ranks=2, timeout=60) == codes
    told = [json.loads((folder / "nonfinite" / f"step_00000003_rank_{r}.json").read_text()) for r in (0, 1)]
    assert [t["this_rank_finite"] for t in told] == [True, False]
    assert told[1]["losses"]["cls"] == "nan"
    assert told[0]["image_ids"] != told[1]["image_ids"]
    done = read_checkpoint(folder / "last.ckpt")
    assert done["global_step"] == (STEPS if policy == "skip" else 3)
    assert all(torch.isfinite(v.float()).all() for v in done["state_dict"].values())


def test_the_number_of_skipped_steps_survives_a_resume(small_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    more = (SKIP, "callbacks.nonfinite.max_skipped=1")
    with pytest.raises(RuntimeError, match="stop here"):
        train_here(configuration(small_data, folder, *more), Call(3, break_loss), Call(6, _stop))
    with pytest.raises(NonFiniteError, match="max_skipped=1"):
        train_here(configuration(small_data, folder, *more, "ckpt=last"), Call(7, break_loss))
    assert tensors_hash(folder / "last.ckpt")


def _stop(trainer: Any, module: Any) -> None:
    raise RuntimeError("stop here")
