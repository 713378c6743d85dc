"""A sweep of three jobs, the second failing: folders, results, and what the same command does when it is run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.process

APP = ROOT / "tests" / "cli" / "app.py"


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, str(APP), "-m", "name=good,bad,other", f"hydra.sweep.dir={folder}",
        f"repaired={folder}.repaired", *overrides,
    ]  # fmt: skip
    # As if the sweep were started by a process that is a rank itself.
    environment = {**os.environ, "IFPN_CONF": str(ROOT / "conf"), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "RANK": "1"}
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=240, env=environment)


def calls(folder: Path) -> list[str]:
    return (folder / "calls.txt").read_text().splitlines()


@pytest.mark.parametrize(
    "how",
    [
        ("trainer.devices=1",),
        ("trainer.devices=1", "hydra.launcher.jobs=2"),  # two at a time
    ],
)
def test_a_failed_job_is_marked_the_rest_goes_on_and_only_it_is_repeated(how: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    first = sweep(folder, *how)
    assert first.returncode == 2, first.stdout + first.stderr
    assert "1 of 3 jobs failed" in first.stderr
    assert "Traceback" not in first.stderr
    assert sorted(f.name for f in folder.iterdir() if f.is_dir()) == ["name=bad", "name=good", "name=other"]
    assert (folder / "name=bad" / "failed.txt").is_file()
    assert not (folder / "name=bad" / "result.json").exists()
    assert json.loads((folder / "name=other" / "result.json").read_text())["complete"]
    rows = json.loads((folder / "sweep.json").read_text())
    assert [(r["folder"], r["status"]) for r in rows] == [
        ("name=good", "finished"),
        ("name=bad", "failed"),
        ("name=other", "finished"),
    ]
    pids = {calls(folder / f"name={name}")[0].split()[0] for name in ("good", "bad", "other")}
    assert len(pids) == 3, "peak memory is a process's: two jobs in one would report the larger one's"
    assert calls(folder / "name=good")[0].endswith("ranks=[]")
    assert "this one fails" in (folder / "name=bad" / "failed.txt").read_text()
    # One at a time, a job is seen while it runs.
    assert ("error: this one fails" in first.stdout) == (how == ("trainer.devices=1",))

    Path(f"{folder}.repaired").touch()
    second = sweep(folder, *how)
    assert second.returncode == 0, second.stdout + second.stderr
    assert [len(calls(folder / f"name={name}")) for name in ("good", "bad", "other")] == [1, 2, 1]
    assert "ckpt=last" in calls(folder / "name=bad")[1]
    assert not (folder / "name=bad" / "failed.txt").exists()
    assert [r["status"] for r in json.loads((folder / "sweep.json").read_text())] == ["skipped", "finished", "skipped"]


def test_a_folder_with_another_configuration_is_refused_not_taken_for_done(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    Path(f"{folder}.repaired").touch()
    assert sweep(folder).returncode == 0
    again = sweep(folder, "size=2")  # left out of the folder's name, so the same folders
    assert again.returncode == 2
    assert "3 of 3 jobs failed" in again.stderr
    assert "holds a run of another configuration" in again.stderr
    assert len(calls(folder / "name=good")) == 1
