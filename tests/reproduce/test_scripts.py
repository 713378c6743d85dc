"""The cost table and the workspace specification, without a GPU and without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ifpn.plots.curves import read_curves
from reproduce.paper import TABLES
from reproduce.rows import read_runs
from tests.reproduce.cases import result, script, write


def test_cost_is_measured_seconds_times_the_papers_images(tmp_path: Path) -> None:
    cost_table = script("cost_table")
    content = result() | {"steps": 60, "batch": 2, "seconds_per_step": 0.5}
    content["config"]["schedule"] |= {"max_steps": 60, "scaling": "none"}
    content["config"]["trainer"]["limit_val_batches"] = 1
    write(tmp_path / "short", content)
    smaller = result(row="dense") | {"steps": 60, "batch": 2}
    smaller["config"]["image"]["min_size"] = [256]
    write(tmp_path / "smaller", smaller)
    found = cost_table.costs(read_runs(tmp_path)[0])
    assert len(found) == sum(1 for t in TABLES for row in t.rows if row.overrides)
    measured = {(c.table.number, c.row.name): c.gpu_hours for c in found if c.gpu_hours is not None}
    # 0.25 s per image x 1.44 million images = 100 hours, in the tables where this run stands; 256 px measures nothing.
    assert measured == {key: pytest.approx(100.0) for key in ((1, "atss_ifpn"), (3, "rbl_csc"), (4, "pyramid"))}
    text = cost_table.markdown(found)
    assert "100 GPU-hours for 1 of " in text
    assert "Extrapolated" in text


def test_the_workspace_names_what_runs_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = script("wandb_workspace")
    monkeypatch.setattr(sys, "argv", ["wandb_workspace.py"])
    workspace.main()
    printed = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in printed] == ["Accuracy", "Equilibrium", "Training", "Pictures", "Tables"]
    titles = [p["title"] for s in printed for p in s["panels"]]
    assert len(titles) == len(set(titles))
    monkeypatch.setattr(sys, "argv", ["wandb_workspace.py", "--save"])
    with pytest.raises(SystemExit):
        workspace.main()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # wandb-workspaces uses pydantic's old decorators
def test_the_workspace_is_built_without_a_server() -> None:
    pytest.importorskip("wandb_workspaces", reason="an optional extra: pip install wandb-workspaces")
    workspace = script("wandb_workspace")
    built = workspace.build("me", "ifpn", "tables")
    assert [section.name for section in built.sections] == [s.name for s in workspace.SPECIFICATION]
    assert [len(section.panels) for section in built.sections] == [len(s.panels) for s in workspace.SPECIFICATION]
    assert [metric.name for metric in built.runset_settings.groupby] == ["Group", "JobType"]
    lines = [p for s in built.sections for p in s.panels if type(p).__name__ == "LinePlot"]
    assert {m for p in lines for m in p.y} <= workspace.metrics()
    assert {p.x for p in lines} == {"trainer/global_step"}  # what Lightning's logger counts


def losses(folder: Path, values: dict[int, float], **changes: object) -> Path:
    """A finished run of one loss at the given steps."""
    write(folder, result() | changes)
    lines = "".join(f"{step},{value}\n" for step, value in values.items())
    (folder / "metrics.csv").write_text(f"step,train/loss\n{lines}")
    return folder


def test_losses_are_compared_step_by_step_and_averaged_per_window(tmp_path: Path) -> None:
    """Steps that one run did not log are left out: 2.0 - 1.0 at step 9, 3.5 - 3.0 and 4.0 - 4.0 in the next window."""
    compare = script("compare_losses")
    a = losses(tmp_path / "a", {4: 9.0, 9: 1.0, 14: 3.0, 19: 4.0})
    b = losses(tmp_path / "b", {9: 2.0, 14: 3.5, 19: 4.0, 24: 7.0})
    compare.check_same(a, b)
    found = compare.differences(read_curves(a / "metrics.csv"), read_curves(b / "metrics.csv"), 10)
    assert found == {"train/loss": [(0, pytest.approx(1.0)), (10, pytest.approx(0.25))]}
    assert compare.table(found, 10).split() == ["steps", "0-9", "10-19", "loss", "+1.000", "+0.250"]


def test_losses_on_other_batches_or_at_another_rate_are_not_compared(tmp_path: Path) -> None:
    check_same = script("compare_losses").check_same
    a = losses(tmp_path / "a", {9: 1.0})
    with pytest.raises(ValueError, match=r"differ in seed \(0 and 1\)"):
        check_same(a, losses(tmp_path / "b", {9: 1.0}, seed=1))
    config = result()["config"]
    config["schedule"]["optimizer"]["lr"] = 0.002
    with pytest.raises(ValueError, match=r"schedule\.optimizer\.lr \(0\.01 and 0\.002\)"):
        check_same(a, losses(tmp_path / "c", {9: 1.0}, config=config))
    with pytest.raises(ValueError, match="not the result of a finished run"):
        check_same(a, tmp_path / "missing")
