"""What a training says on the terminal: what it is, what changed, where its time goes; nothing else."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from ifpn.cli.header import config_changes, described
from ifpn.cli.warnings import KNOWN, silence_known_warnings
from ifpn.training.callbacks import Progress
from tests.config.composing import composed
from tests.training.harness import configuration, train_here


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("neck=implicit", "A, neck ImplicitFPN, csc PyramidConv, solver Equilibrium, backbone E"),
        ("neck=fpn", "A, neck FPN, backbone E"),
        ("neck=stack", "A, neck StackedFPN, csc PyramidConv, backbone E"),
    ],
)
def test_the_header_names_the_parts_that_a_detector_has(typed: str, parts: str) -> None:
    chosen = {"detector": "A", "backbone": "E"}
    assert described(composed(typed), chosen) == parts
    assert described(composed(typed), {**chosen, "neck": "mine"}).split(", ")[1] == "neck mine"


def test_a_change_is_told_once_and_a_moved_folder_is_none() -> None:
    before = {"run_dir": "/a", "ckpt": None, "size": 1, "neck": {"csc": {"norm": "gn"}}, "log": {"dir": "/a/x"}}
    after = {"run_dir": "/b", "ckpt": "last", "size": 2, "neck": {"csc": {"norm": "bn"}}, "log": {"dir": "/b/x"}}
    before["csc"], after["csc"] = {"norm": "gn"}, {"norm": "bn"}
    assert config_changes(before, after) == ["csc.norm, neck.csc.norm: gn -> bn", "size: 1 -> 2"]
    assert config_changes(before, before) == []


def test_known_warnings_are_silent_and_others_are_shown() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        silence_known_warnings()
        warnings.warn("The 'val_dataloader' does not have many workers which may be a bottleneck", stacklevel=1)
        warnings.warn("the disk is on fire", stacklevel=1)
    assert [str(w.message) for w in shown] == ["the disk is on fire"]
    assert all(KNOWN.values())  # each with its reason


def test_validation_moves_the_bar() -> None:
    progress = Progress(refresh_seconds=100.0)
    progress.console = Console(force_terminal=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    trainer: Any = SimpleNamespace(
        global_step=3, estimated_stepping_batches=10, num_val_batches=[4], sanity_checking=False, callback_metrics={}
    )
    trainer.state = SimpleNamespace(fn="fit")
    progress.on_train_start(trainer, None)  # type: ignore[arg-type]
    for batch in range(4):
        progress.on_validation_batch_end(trainer, None, None, None, batch)  # type: ignore[arg-type]
    assert progress._bar is not None
    assert [(t.completed, t.total) for t in progress._bar.tasks] == [(3, 10), (4, 4)]
    progress.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert [t.completed for t in progress._bar.tasks] == [3]
    progress.on_train_end(trainer, None)  # type: ignore[arg-type]
    progress.console.file.close()


@pytest.mark.slow
@pytest.mark.process
def test_a_profile_shows_the_solvers_share_and_its_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run" / "profile.txt"
    node = f"+callbacks.profile={{_target_: ifpn.training.callbacks.Profile, path: {path}, warmup: 2}}"
    short = ("schedule.max_epochs=null", "schedule.max_steps=4", "trainer.limit_val_batches=0")
    train_here(configuration(tmp_path / "data", tmp_path / "run", node, *short))
    printed, said = capfd.readouterr()
    table = path.read_text()
    assert table.strip() in printed
    assert str(path) in printed.replace("\n", "")
    seconds = {name.strip(): float(s) for name, s in re.findall(r"│ (.+?) +│ +([\d.]+) │", table)}
    solves = seconds["solver: gradient"] + seconds["solver: search of the fixed point"]
    whole = seconds.pop("whole step, with the profiler on")
    assert min(seconds.values()) >= 0
    assert solves > 0
    share = int(re.findall(r"the solver has (\d+)%", table)[0])
    assert share == pytest.approx(100 * solves / whole, abs=1.0)  # whole percent, seconds to four digits
    assert sum(seconds.values()) == pytest.approx(whole, abs=1e-3)  # a dozen rows, each rounded to 5e-5
    assert said == ""
