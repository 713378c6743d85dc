"""What `ifpn train` says before it starts and when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ifpn.cli.command import choices, typed
from ifpn.data import DetectionData
from ifpn.runs.folder import (
    BATCH,
    BEST,
    CONFUSION,
    CONVERGENCE,
    CURVES,
    EXPORT,
    METRICS,
    OPERATING,
    PRECISION_RECALL,
    PROFILE,
    RESULT,
    SAMPLES,
)
from ifpn.runs.result import machine
from ifpn.training.module import DetectionModule

FILES = {
    SAMPLES: "validation images, truth beside prediction",
    CURVES: "losses, AP, the solver, learning rate",
    METRICS: "the same as numbers",
    CONVERGENCE: "the solver's residual, forward and backward",
    CONFUSION: "which class is taken for which",
    PRECISION_RECALL: "precision against recall, by overlap and by class",
    OPERATING: "precision and recall against the score threshold",
    BATCH: "the first training batch, as the network saw it",
    PROFILE: "where the time went",
    RESULT: "every number of this run",
    BEST: "for ifpn evaluate, predict and export",
    EXPORT: "the same weights as model.safetensors, for ifpn.load",
}


def say(console: Console, name: str, text: object) -> None:
    """Print one fact under its name."""
    console.print(f"[bold]{name}[/]{' ' * max(1, 10 - len(name))}", end="")
    console.print(str(text), markup=False, soft_wrap=True)


def print_header(
    console: Console, cfg: DictConfig, data: DetectionData, module: DetectionModule, trainer: pl.Trainer, own: bool
) -> None:
    """Say what is trained on what, how long and where.

    Args:
        console: where to.
        cfg: the configuration.
        data: set up.
        module: with the plan.
        trainer: of the run.
        own: whether the detector is the one that `cfg` describes.
    """
    trainable = sum(p.numel() for p in module.detector.parameters() if p.requires_grad)
    total = sum(p.numel() for p in module.detector.parameters())
    say(console, "data", data)
    say(console, "detector", described(cfg, choices()) if own else type(module.detector).__name__)
    say(console, "", f"{total / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M trained")
    recipe = choices().get("recipe")
    sides = "/".join(map(str, cfg.image.min_size))
    size = f"shorter side {sides} px, longer at most {cfg.image.max_size} px, {cfg.neck.out_channels} channels"
    say(console, "recipe", f"{recipe}: {size}" if recipe else size)
    if recipe == "small" and cfg.data.get("generate") and not typed("recipe"):
        say(console, "", "recipe=quick is enough for the built-in data: half the width.")
    say(console, "schedule", module.plan.summary)
    ranks = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    say(console, "device", f"{ranks}{machine(trainer.strategy.root_device)}; precision {trainer.precision}")
    say(console, "run", cfg.run_dir)


def described(cfg: DictConfig, chosen: Mapping[str, str | None]) -> str:
    """The parts of a detector by the names of their options: `autoassign, neck implicit, csc pyramid, …`.

    Args:
        cfg: the configuration.
        chosen: group: option; where that is not known, the name of the class stands for it.
    """
    # A neck names what it is made of: an FPN has no block and no solver.
    groups = ["detector", "neck", *(group for group in ("csc", "solver") if cfg.neck.get(group)), "backbone"]
    names = [chosen.get(group) or str(cfg[group]._target_).rpartition(".")[2] for group in groups]
    named = [f"{group} {name}" for group, name in zip(groups, names, strict=True)]
    return ", ".join(named).removeprefix("detector ")


def print_result(console: Console, module: DetectionModule, run_dir: Path) -> None:
    """Print the numbers of the last validation, and what each file in the run folder is."""
    if module.result is not None:
        for table in module.result.tables(module.metadata["class_names"]):
            console.print(table)
    files = Table(title=f"In {run_dir}", show_header=False, title_justify="left")
    for name, meaning in FILES.items():
        if (run_dir / name).exists():
            files.add_row(name, meaning)
    console.print(files)


def config_changes(before: Any, after: Any) -> list[str]:
    """What differs between two configurations, a change that shows in several places once.

    Returns:
        ["schedule.max_epochs: 2 -> 4", "csc.norm, neck.csc.norm: gn -> bn", ...]. A run folder that was moved is no
        change, nor is what lies in it.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for path, old, new in _differences(_without_run_dir(before), _without_run_dir(after), ""):
        places.setdefault((str(old), str(new)), []).append(path)
    return [f"{', '.join(paths)}: {old} -> {new}" for (old, new), paths in places.items()]


def _differences(before: Any, after: Any, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after}, key=str)
        pairs = ((f"{path}.{key}".lstrip("."), before.get(key), after.get(key)) for key in keys)
        return [found for below, old, new in pairs for found in _differences(old, new, below)]
    return [] if before == after else [(path, before, after)]


def _without_run_dir(config: Any) -> Any:
    run_dir = config.get("run_dir")

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(below) for key, below in value.items()}
        return value.replace(run_dir, "RUN_DIR") if isinstance(value, str) and run_dir else value

    return replaced({key: value for key, value in config.items() if key not in ("run_dir", "ckpt")})
