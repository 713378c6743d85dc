"""Rows of the tables really run, as one sweep each, and the tables are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ifpn.training.callbacks.solver_monitor import MEASURED
from ifpn.training.loggers import COSTS
from reproduce.wandb_workspace import metrics
from tests.processes import command

pytestmark = pytest.mark.process


def test_a_table_at_smoke_scale_from_the_command_line_to_the_papers_column(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for table, narrowed, folders in (
        ("table5", ("neck=mdeq",), ["neck=mdeq"]),
        ("table2", ("row=unroll_2",), ["row=unroll_2"]),
    ):
        sweep = (f"experiment={table}", "scale=smoke", f"data.root={tmp_path / 'shapes'}", "trainer=cpu", *narrowed)
        done = command("train.py", *sweep, f"hydra.sweep.dir={runs / table}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert sorted(f.parent.name for f in (runs / table).glob("*/result.json")) == folders
    done = command("report.py", str(runs))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Table 2: 1 of 5 rows, 1 runs" in done.stdout
    assert "Table 5: 1 of 2 rows, 1 runs" in done.stdout
    assert "left out" not in done.stdout
    logged = {name for file in runs.rglob("metrics.csv") for name in file.read_text().splitlines()[0].split(",")}
    elsewhere = {*COSTS, *(f"solver/{name}" for name in MEASURED)}  # not in metrics.csv; where it is asked for
    assert elsewhere < metrics()
    assert metrics() - elsewhere <= logged, "the W&B panels name metrics that no run logs"
    text = (runs / "tables" / "tables.md").read_text()
    mark = "data built-in shapes; backbone efficientnet_lite0; 3 steps of 2 images at 64 to 128 px"
    assert f"not the paper's: {mark}" in text


def test_reports_speak_in_sentences(tmp_path: Path) -> None:
    for arguments, text in (
        ((str(tmp_path), "uot=x"), "uot does not exist. python report.py RUNS takes out. Did you mean out?"),
        ((str(tmp_path / "absent"),), "is neither a folder of runs nor one of"),
        (("runs=x", "baseline=fpn"), "is: ifpn report runs=x baseline=fpn"),
    ):
        done = command("report.py", *arguments)
        assert done.returncode == 2
        assert text in done.stderr
        assert "Traceback" not in done.stderr
