"""`ifpn report`: a table of any sweep, with paired differences."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from ifpn.cli.contrasts import Contrast, Truths, asked_for, contrast
from ifpn.cli.report_text import write_report
from ifpn.errors import ConfigError
from ifpn.plots.comparison import draw_comparison
from ifpn.runs.recorded import RUNS, with_recorded
from ifpn.runs.sweep import METRICS, read_sweep


def report(cfg: DictConfig) -> list[Contrast]:
    """Read the runs below `cfg.runs`, print the table, write it as Markdown, CSV, LaTeX and a picture.

    Raises:
        ConfigError: no finished run, or a row or metric that is not there.
    """
    console, folder = Console(highlight=False), Path(cfg.runs).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"runs={cfg.runs}: must be a folder with runs below it.")
    rows, left = read_sweep(folder)
    tables = [Path(name).expanduser() for name in cfg.recorded]
    if not rows and (folder / RUNS).is_file():
        tables.insert(0, folder / RUNS)
    rows, repeated = with_recorded(rows, tables)
    left += repeated
    if not rows:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in left[:3]) or "there is no result.json below it"
        raise ConfigError(f"runs={cfg.runs}: holds no finished run ({reasons}). Give the folder of a sweep.")
    metrics = [cfg.metrics] if isinstance(cfg.metrics, str) else list(cfg.metrics)
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        raise ConfigError(f"metrics={unknown[0]}: must be one of {', '.join(METRICS)}.")
    by_name, contrasts, truths = {row.name: row for row in rows}, [], Truths(console)
    for name, a, b in asked_for(cfg, rows):
        for metric in metrics:
            pair = by_name[a], by_name[b]
            truth = truths.of(pair) if metric == "AP" and cfg.resamples else None
            resampled = None if truth is None else partial(truths.resampled, truth, cfg.resamples)
            contrasts.append(contrast(name, *pair, metric, resampled))
    out = Path(cfg.run_dir).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    printed = write_report(rows, contrasts, left, out, console.width)
    draw_comparison(rows, contrasts, out / "differences.png")
    for table in printed:
        console.print(table)
    for path, reason in left:
        console.print(f"left out: {path}: {reason}", markup=False, soft_wrap=True)
    console.print(f"In {out}: {', '.join(sorted(f.name for f in out.iterdir() if f.is_file()))}", soft_wrap=True)
    return contrasts
