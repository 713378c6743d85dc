"""SIGTERM and SLURM's requeue signal end a run between two steps, with a checkpoint from which it goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ifpn.training.checkpoint import read_checkpoint
from tests.training.harness import STEPS, TWO_RANKS, Call, configuration, tensors_hash, train_in_processes

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
RARE = "callbacks.last.every_n_steps=1000"


def terminate(trainer: Any, module: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


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


def test_the_slurm_script_is_valid_shell() -> None:
    script = Path(__file__).resolve().parents[2] / "scripts" / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
