"""The real command: a sweep of two jobs on two processes each (gloo), of which the first fails."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from ifpn.backbones import efficientnet_lite0
from tests.cli.cases import SMALL
from tests.processes import PATIENCE, command

pytestmark = [pytest.mark.slow, pytest.mark.process]


def sweep(folder: Path, weights: list[str]) -> subprocess.CompletedProcess[str]:
    arguments = [
        "-m", *(setting for setting in SMALL if not setting.startswith("backbone.weights")),
        f"backbone.weights={','.join(weights)}", "-j", "1", f"hydra.sweep.dir={folder}",
        f"data.root={folder}.data", "data.generate.num_train=8", "data.workers=0", "data.batch_size=2",
        "schedule.max_epochs=1", "trainer=ddp", "trainer.devices=2",
        f"trainer.strategy.timeout_seconds={55 * PATIENCE}", "~callbacks.export", "callbacks.pictures.samples=1",
    ]  # fmt: skip
    return command("train.py", *arguments)


def test_a_sweep_on_two_devices_and_the_same_command_again(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    # The first job meets a loss that is not finite.
    broken = efficientnet_lite0("none", 2, True).state_dict()
    torch.save({name: torch.full_like(value, 1e38) for name, value in broken.items()}, tmp_path / "broken.pth")
    weights = [str(tmp_path / "broken.pth"), "none"]
    first = sweep(folder, weights)
    assert first.returncode == 2, first.stdout + first.stderr
    assert "1 of 2 jobs failed" in first.stderr
    rows = json.loads((folder / "sweep.json").read_text())
    assert [row["status"] for row in rows] == ["failed", "finished"]
    # One folder for each job, whatever the number of its processes, and nothing beside.
    assert sorted(f.name for f in folder.iterdir() if f.is_dir()) == sorted(row["folder"] for row in rows)
    for row, path in zip(rows, weights, strict=True):
        job = folder / row["folder"]
        config = yaml.safe_load((job / "config.yaml").read_text())
        assert config["backbone"]["weights"] == path
        assert config["run_dir"] == str(job)
        assert (job / "failed.txt").is_file() == (row["status"] == "failed")
        # Both processes had the same weights: they agreed on the step and on the evidence of the failure.
        evidence = sorted(f.name for f in job.glob("nonfinite/*.json"))
        assert len(evidence) == (2 if row["status"] == "failed" else 0)

    finished = folder / rows[1]["folder"] / "result.json"
    result = json.loads(finished.read_text())
    assert (result["complete"], result["world_size"], result["steps"]) == (True, 2, 2)
    written = finished.stat().st_mtime_ns
    second = sweep(folder, weights)
    assert second.returncode == 2, second.stdout + second.stderr
    again = json.loads((folder / "sweep.json").read_text())
    assert [row["status"] for row in again] == ["failed", "skipped"]
    assert finished.stat().st_mtime_ns == written
    assert second.stdout.count("starts:") + second.stdout.count("resumes:") == 1
