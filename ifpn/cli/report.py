"""`ifpn report RUNS`: one line per finished or interrupted run below a folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifpn.errors import ConfigError

SCORES = ("AP", "AP50", "AP75")


def main(arguments: Sequence[str]) -> int:
    """Print a table of every `result.json` below the given folder.

    Args:
        arguments: The words after `ifpn report`.

    Returns:
        Exit status 0.

    Raises:
        ConfigError: The folder does not exist, or holds no run.
    """
    parser = argparse.ArgumentParser("ifpn report", description="A table of the runs below a folder, best AP first.")
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"), help="a folder (default: runs)")
    folder: Path = parser.parse_args(arguments).runs.expanduser()
    results = {path.parent: json.loads(path.read_text()) for path in sorted(folder.rglob("result.json"))}
    if not results:
        raise ConfigError(f"runs={folder}: must be a folder with runs below it (no result.json found).")

    from rich.console import Console
    from rich.table import Table

    table = Table("run", "seed", "steps", *SCORES, "s/step", title=str(folder), title_justify="left")
    ranked = sorted(results, key=lambda run: -((results[run].get("summary") or {}).get("AP") or -1.0))
    for run in ranked:
        table.add_row(str(run.relative_to(folder)), *_cells(results[run]))
    Console(highlight=False).print(table)
    return 0


def _cells(result: Mapping[str, Any]) -> list[str]:
    """The numbers of one run as text; `-` where it has none."""
    scores = result.get("summary") or {}
    steps = f"{result.get('steps', '-')}{'' if result.get('complete') else ' (stopped)'}"
    numbers = [scores.get(name) for name in SCORES] + [result.get("seconds_per_step")]
    return [str(result.get("seed", "-")), steps, *("-" if n is None else f"{n:.3f}" for n in numbers)]
