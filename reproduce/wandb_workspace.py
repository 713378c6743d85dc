"""A Weights & Biases workspace for our runs: the panels a reader wants, runs grouped by table and row.

    python -m reproduce.wandb_workspace                          # prints the specification, needs nothing
    python -m reproduce.wandb_workspace --entity ME --save       # creates it (needs wandb-workspaces, wandb login)

The specification is plain data, so that it can be read and tested without a server.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ifpn.runs import folder


@dataclass(frozen=True)
class Panel:
    """lines: metrics over optimiser steps. bars: last values. pictures, table: media logged under these keys."""

    kind: str
    title: str
    metrics: tuple[str, ...]
    log: bool = False


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    name: str
    panels: tuple[Panel, ...]


STEP = "trainer/global_step"
PICTURES = tuple(f"run/{Path(name).stem}" for name in folder.PICTURES)
SPECIFICATION = (
    Section(
        "Accuracy",
        (
            Panel("lines", "AP", ("val/AP",)),
            Panel("lines", "AP50 and AP75", ("val/AP50", "val/AP75")),
            Panel("lines", "AP by size", ("val/APs", "val/APm", "val/APl")),
            Panel("bars", "AP at the end", ("val/AP",)),
        ),
    ),
    Section(
        "Equilibrium",
        (
            Panel(
                "lines", "residual in training", ("solver/forward_residual", "solver/forward_residual_max"), log=True
            ),
            Panel("lines", "residual at test time", ("solver/test_residual",), log=True),
            Panel("lines", "residual of the gradient", ("solver/backward_residual",), log=True),
            Panel("lines", "evaluations of G", ("solver/forward_evals",)),
            Panel("lines", "spectral radius of G", ("solver/spectral_radius",)),
            Panel("lines", "effective depth", ("solver/effective_depth",)),
            Panel("lines", "share not finite", ("solver/forward_nonfinite", "solver/backward_nonfinite")),
        ),
    ),
    Section(
        "Training",
        (
            Panel("lines", "loss", ("train/loss",)),
            Panel("lines", "seconds per step", ("train/seconds_per_step",)),
            Panel("lines", "peak memory, MiB", ("train/memory_mib",)),
        ),
    ),
    Section(
        "Pictures",
        (Panel("pictures", "of each run", ("val/boxes", *PICTURES)),),
    ),
    Section(
        "Tables",
        (
            Panel("table", "the twelve numbers", ("run/summary",)),
            Panel("table", "per class", ("run/per_class",)),
            Panel("table", "precision and recall", ("run/precision_recall_table",)),
            Panel("table", "which class is taken for which", ("run/confusion_table",)),
        ),
    ),
)


def metrics() -> set[str]:
    """Every scalar that the panels name."""
    return {m for panel in _panels() if panel.kind in ("lines", "bars") for m in panel.metrics}


def media() -> set[str]:
    """Every picture and table that the panels name."""
    return {m for panel in _panels() if panel.kind in ("pictures", "table") for m in panel.metrics}


def _panels() -> list[Panel]:
    return [panel for section in SPECIFICATION for panel in section.panels]


def build(entity: str, project: str, name: str) -> Any:
    """The specification as an object of the optional package wandb-workspaces."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        sys.exit("error: --save needs the optional package: pip install wandb-workspaces")

    def panel(one: Panel) -> Any:
        if one.kind == "pictures":
            return wr.MediaBrowser(title=one.title, media_keys=list(one.metrics))
        if one.kind == "table":
            return wr.WeavePanelSummaryTable(table_name=one.metrics[0])
        if one.kind == "bars":
            return wr.BarPlot(title=one.title, metrics=list(one.metrics))
        return wr.LinePlot(title=one.title, x=STEP, y=list(one.metrics), log_y=one.log)

    sections = [ws.Section(name=s.name, panels=[panel(p) for p in s.panels], is_open=True) for s in SPECIFICATION]
    runs = ws.RunsetSettings(groupby=[ws.Metric("Group"), ws.Metric("JobType")])
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections, runset_settings=runs)


def main() -> None:
    """Prints or saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--entity", default="", help="your account or team")
    parser.add_argument("--project", default="ifpn")
    parser.add_argument("--name", default="i-FPN: the paper's tables")
    parser.add_argument("--save", action="store_true", help="create it on the server")
    options = parser.parse_args()
    if not options.save:
        print(json.dumps([asdict(section) for section in SPECIFICATION], indent=1))
        return
    if not options.entity:
        parser.error("--save needs --entity, your account or team")
    print(build(options.entity, options.project, options.name).save())


if __name__ == "__main__":
    main()
