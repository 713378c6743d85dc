"""runs.csv: the numbers of finished runs, kept in a repository when the runs themselves are not."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ifpn.errors import ConfigError
from ifpn.reading import read_bytes
from ifpn.runs.sweep import METRICS, Row, SweptRun, merge_rows

RUNS = "runs.csv"
_NUMBERS = {  # column: where result.json has it
    "steps": ("steps",),
    "batch": ("batch",),
    "seconds_per_step": ("seconds_per_step",),
    "peak_memory_mib": ("peak_memory_mib",),
    "parameters": ("parameters",),
    "multiply_adds": ("multiply_adds",),
    "spectral_radius": ("solver", "spectral_radius"),
}
_TEXTS = ("config_hash", "commit")
_HEADS = ("row", "seed", *METRICS, *_NUMBERS, *_TEXTS, "sha256")


def recorded_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Every run by itself, with the digest of its result.json: a table can be checked and extended without the runs."""
    cells = []
    for row in rows:
        for run in row.runs:
            scores = ["" if (v := run.value(metric)) is None else f"{v:.4f}" for metric in METRICS]
            numbers = ["" if (v := run.number(*path)) is None else f"{v:.10g}" for path in _NUMBERS.values()]
            texts = [str(run.content.get(name) or "") for name in _TEXTS]
            digest = run.sha256 or hashlib.sha256((run.folder / "result.json").read_bytes()).hexdigest()
            cells.append([row.name, str(run.seed), *scores, *numbers, *texts, digest])
    return list(_HEADS), cells


def read_recorded(path: Path) -> list[Row]:
    """Read the rows of a runs.csv.

    Raises:
        ConfigError: it cannot be read, a column is missing, or a value is none.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
        lines = list(csv.DictReader(io.StringIO(text)))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as a table of runs: {error}.") from error
    runs: dict[str, list[SweptRun]] = {}
    for number, line in enumerate(lines, start=2):
        missing = [head for head in ("row", "seed", *METRICS) if line.get(head) is None]
        if missing:
            raise ConfigError(f"{path}, line {number}: has no {missing[0]}. Give a {RUNS} that `ifpn report` wrote.")
        try:
            runs.setdefault(line["row"], []).append(_run(path, line))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}.") from error
    if not runs:
        raise ConfigError(f"{path}: holds no run. Give a {RUNS} that `ifpn report` wrote.")
    return [Row(name, tuple(sorted(found, key=lambda run: run.seed))) for name, found in runs.items()]


def with_recorded(rows: Sequence[Row], paths: Sequence[Path]) -> tuple[list[Row], list[tuple[Path, str]]]:
    """Rows and those of the tables `paths`, put together by name; (rows, what was left out and why).

    A seed that a row has already is left out: its run, or the first table that has it, counts.
    """
    left: list[tuple[Path, str]] = []
    merged = list(rows)
    for path in paths:
        merged, repeated = merge_rows(merged, read_recorded(path))
        left += [(path, f"{name}, seed {seed}: is there already") for name, seed in repeated]
    return merged, left


def _run(path: Path, line: dict[str, str]) -> SweptRun:
    summary = {metric: -1.0 if line[metric] == "" else _finite(line[metric], metric, 100.0) / 100 for metric in METRICS}
    content: dict[str, Any] = {"seed": int(line["seed"]), "summary": summary, "config": {}, "solver": {}}
    for name, (*above, key) in _NUMBERS.items():
        if line.get(name):
            (content["solver"] if above else content)[key] = _finite(line[name], name)
    content |= {name: line[name] for name in _TEXTS if line.get(name)}
    return replace(SweptRun(path.parent, content, {}), sha256=line.get("sha256") or "unknown")


def _finite(text: str, name: str, most: float = math.inf) -> float:
    value = float(text)
    if not 0 <= value <= most or math.isinf(value):
        raise ValueError(
            f"{name}={text}: must be a number of at least 0" + ("" if math.isinf(most) else f", at most {most:g}")
        )
    return value
