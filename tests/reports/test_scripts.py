"""The cost table and the workspace specification, without a GPU and without a server."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ifpn.reports.paper import TABLES
from ifpn.reports.results import read_runs
from tests.conftest import ROOT
from tests.reports.test_tables import result, write


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_cost_is_measured_seconds_times_the_papers_images(tmp_path: Path) -> None:
    cost_table = script("cost_table")
    content = result() | {"steps": 60, "batch": 2, "seconds_per_step": 0.5}
    content["config"]["schedule"] |= {"max_steps": 60, "scaling": "none"}
    content["config"]["trainer"]["limit_val_batches"] = 1
    write(tmp_path / "short", content)
    smaller = result(row="dense") | {"steps": 60, "batch": 2}
    smaller["config"]["schedule"]["min_size"] = [256]
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
