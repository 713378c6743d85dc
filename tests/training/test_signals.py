"""SIGTERM and SLURM's requeue signal end a run between two steps, with a checkpoint from which it goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.callbacks import Callback

from benchmarks.lives import tensors_hash
from ifpn.errors import ConfigError
from ifpn.runs.checkpoint import read_checkpoint
from tests.conftest import ROOT
from tests.training.harness import STEPS, TWO_RANKS, Call, configuration, train_here, train_in_processes

pytestmark = pytest.mark.process
RARE = "callbacks.last.every_n_steps=1000"


def terminate(trainer: Any, module: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt(trainer: Any, module: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def requeue(trainer: Any, module: Any) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_sigterm_saves_at_the_next_step_and_the_resumed_run_is_the_same(small_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train_in_processes(configuration(small_data, tmp_path / "whole", RARE)) == [0]
    assert train_in_processes(configuration(small_data, folder, RARE), Call(2, terminate)) == [143]
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 3
    assert f"continue with ckpt=last run_dir={folder}" in Path(f"{folder}.rank0.log").read_text()
    assert train_in_processes(configuration(small_data, folder, RARE, "ckpt=last")) == [0]
    assert tensors_hash(folder / "last.ckpt") == tensors_hash(tmp_path / "whole" / "last.ckpt")
    assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


class InValidation(Callback):
    """Calls `what(trainer, module)` at the start of the first validation batch."""

    def __init__(self, what: Any, rank: int | None = None) -> None:
        self.what, self.rank = what, rank

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if batch_idx == 0 and self.rank in (None, trainer.global_rank):
            self.what(trainer, pl_module)


def test_sigterm_in_a_validation_ends_it_and_the_resumed_run_validates_first(small_data: Path, tmp_path: Path) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    assert train_in_processes(configuration(small_data, whole, RARE)) == [0]
    assert train_in_processes(configuration(small_data, folder, RARE), InValidation(terminate)) == [143]
    saved = read_checkpoint(folder / "last.ckpt")
    assert (saved["global_step"], saved["ifpn"]["validation_due"]) == (5, True)
    with open(folder / "metrics.csv") as file:
        assert "val/AP" not in file.readline()
    assert train_in_processes(configuration(small_data, folder, RARE, "ckpt=last")) == [0]
    for name in ("last.ckpt", "best.ckpt"):
        assert tensors_hash(folder / name) == tensors_hash(whole / name)
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_sigterm_to_one_of_two_ranks_in_a_validation_stops_both(small_data: Path, tmp_path: Path) -> None:
    cfg = configuration(small_data, tmp_path / "run", RARE, *TWO_RANKS)
    assert train_in_processes(cfg, InValidation(terminate, rank=1), ranks=2, timeout=60) == [143, 0]
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 5


def test_ctrl_c_saves_at_the_next_step_and_a_second_one_ends_at_once(small_data: Path, tmp_path: Path) -> None:
    assert train_in_processes(configuration(small_data, tmp_path / "run", RARE), Call(2, interrupt)) == [130]
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 3
    twice = [Call(2, interrupt), Call(2, interrupt)]
    assert train_in_processes(configuration(small_data, tmp_path / "twice", RARE), *twice) == [1]
    assert not (tmp_path / "twice" / "last.ckpt").exists()


def test_sigterm_to_one_of_two_ranks_stops_both(small_data: Path, tmp_path: Path) -> None:
    cfg = configuration(small_data, tmp_path / "run", RARE, *TWO_RANKS)
    assert train_in_processes(cfg, Call(2, terminate, rank=1), ranks=2, timeout=60) == [143, 0]
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 3


def test_a_rank_that_dies_ends_the_job_with_an_error(small_data: Path, tmp_path: Path) -> None:
    def die(trainer: Any, module: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    cfg = configuration(small_data, tmp_path / "run", *TWO_RANKS)
    codes = train_in_processes(cfg, Call(4, die, rank=1), ranks=2, timeout=60)
    assert codes[1] == -9
    assert codes[0] not in (0, -9)


def test_slurm_requeues_between_two_steps(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job asks `scontrol` for it, which here is a script that writes down how it was called."""
    asked = tmp_path / "asked"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    for name, value in {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NODELIST", "localhost")
    folder = tmp_path / "run"
    more = (RARE, "trainer=slurm", "trainer.strategy=auto", "trainer.accelerator=cpu")
    assert train_in_processes(configuration(small_data, folder, *more), Call(2, requeue)) == [143]
    assert asked.read_text() == "requeue 77\n"
    assert read_checkpoint(folder / "hpc_ckpt_1.ckpt")["global_step"] == 3
    assert train_in_processes(configuration(small_data, folder, *more, "ckpt=last")) == [0]
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == STEPS
    assert not list(folder.glob("hpc_ckpt_*"))


def test_slurm_outside_slurm_is_told(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SLURM_PROCID is not set: submit scripts/slurm\.sh"):
        train_here(configuration(small_data, tmp_path / "run", "trainer=slurm", "trainer.accelerator=cpu"))


def slurm_script(folder: Path, *overrides: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """scripts/slurm.sh with an srun that prints its arguments, one a line."""
    srun = folder / "bin" / "srun"
    srun.parent.mkdir(exist_ok=True)
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    environment = {**os.environ, "PATH": f"{srun.parent}:{os.environ['PATH']}", **variables}
    command = ["bash", str(ROOT / "scripts" / "slurm.sh"), *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_the_slurm_script_starts_a_run_and_continues_it(tmp_path: Path) -> None:
    first = slurm_script(tmp_path, "data=coco", "data.root=/my data", SLURM_JOB_ID="7")
    expected = ["python", "train.py", "trainer=slurm", "run_dir=runs/job_7", "data=coco", "data.root=/my data"]
    assert first.stdout.splitlines() == expected
    (tmp_path / "runs" / "job_7").mkdir(parents=True)
    (tmp_path / "runs" / "job_7" / "config.yaml").touch()
    second = slurm_script(tmp_path, "data=coco", "data.root=/my data", SLURM_JOB_ID="7")
    assert second.stdout.splitlines() == [*expected, "ckpt=last"]


def test_the_slurm_script_takes_its_row_of_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("csc=bifpn\ncsc=dense image.min_size=[64,96]")
    array = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "ROWS": "rows.txt"}
    done = slurm_script(tmp_path, "seed=1", SLURM_ARRAY_TASK_ID="2", **array)
    assert done.stdout.splitlines()[3:] == ["run_dir=runs/job_8/2", "seed=1", "csc=dense", "image.min_size=[64,96]"]
    for number in ("0", "3"):
        done = slurm_script(tmp_path, SLURM_ARRAY_TASK_ID=number, **array)
        assert done.returncode == 2
        assert f"rows.txt has no line {number}: its rows are --array=1-2" in done.stderr
    done = slurm_script(tmp_path, SLURM_ARRAY_TASK_ID="1", **{**array, "ROWS": "none.txt"})
    assert "ROWS=none.txt cannot be read" in done.stderr
