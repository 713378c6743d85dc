"""The real command: a sweep of two jobs on two processes each (gloo), of which the first fails."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cli.test_train import SMALL
from tests.processes import PATIENCE, command

pytestmark = pytest.mark.process

# Steps of 1e37 take the activations out of float32 after the first step (1e38, divided by AdamW's 0.1, is no float32
# itself); the second meets a loss that is not finite.
RATES = ("1e37", "0.002")


def sweep(folder: Path) -> subprocess.CompletedProcess[str]:
    arguments = [
        "-m", f"schedule.optimizer.lr={','.join(RATES)}", "-j", "1",
        f"hydra.sweep.dir={folder}",
        *SMALL, f"data.root={folder}.data", "data.generate.num_train=8", "data.workers=0", "data.batch_size=2",
        "schedule.max_epochs=1", "schedule.curve.warmup_steps=0", "schedule.gradient_clip=null",
        "trainer=ddp", "trainer.devices=2", f"trainer.strategy.timeout_seconds={55 * PATIENCE}", "~callbacks.export",
        "callbacks.pictures.samples=1",
    ]  # fmt: skip
    return command("train.py", *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two_devices") / "sweep"


def test_a_sweep_on_two_devices_and_the_same_command_again(folder: Path) -> None:
    first = sweep(folder)
    assert first.returncode == 2, first.stdout + first.stderr
    assert "1 of 2 jobs failed" in first.stderr
    rows = json.loads((folder / "sweep.json").read_text())
    assert [row["status"] for row in rows] == ["failed", "finished"]
    # One folder for each job, whatever the number of its processes, and nothing beside.
    assert sorted(f.name for f in folder.iterdir() if f.is_dir()) == sorted(row["folder"] for row in rows)
    for row, rate in zip(rows, RATES, strict=True):
        job = folder / row["folder"]
        config = yaml.safe_load((job / "config.yaml").read_text())
        assert config["schedule"]["optimizer"]["lr"] == float(rate)
        assert config["run_dir"] == str(job)
        assert (job / "failed.txt").is_file() == (row["status"] == "failed")
        # Both processes had the same rate: they agreed on each step and on the evidence of the failure.
        evidence = sorted(f.name for f in job.glob("nonfinite/*.json"))
        assert len(evidence) == (2 if row["status"] == "failed" else 0)
        if row["status"] == "finished":
            result = json.loads((job / "result.json").read_text())
            assert (result["complete"], result["world_size"], result["steps"]) == (True, 2, 2)

    finished = folder / rows[1]["folder"] / "result.json"
    written = finished.stat().st_mtime_ns
    second = sweep(folder)
    assert second.returncode == 2, second.stdout + second.stderr
    again = json.loads((folder / "sweep.json").read_text())
    assert [row["status"] for row in again] == ["failed", "skipped"]
    assert finished.stat().st_mtime_ns == written
    assert second.stdout.count("starts:") + second.stdout.count("resumes:") == 1
