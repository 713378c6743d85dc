"""The finished runs below a folder, sorted into the settings that were swept and the seeds they were repeated with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ifpn.errors import ConfigError
from ifpn.reading import read_json, read_yaml
from ifpn.runs.identity import config_hash

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# They say where a run lies, how it is watched or how often it is repeated: never what distinguishes two rows.
_NOT_SETTINGS = ("seed", "run_dir", "ckpt", "logger", "trainer", "compile")


@dataclass(frozen=True)
class SweptRun:
    """One finished training.

    Attributes:
        folder: where it lies.
        content: its result.json.
        overrides: what was given on the command line, by name: {"neck": "fpn", "schedule.max_epochs": "10"}.
        sha256: of its result.json, where only a table of runs has told it.
    """

    folder: Path
    content: Mapping[str, Any]
    overrides: Mapping[str, str]
    sha256: str | None = None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.content["seed"])

    def value(self, metric: str) -> float | None:
        """A number of COCO's in percent; None where the validation set has no box of that kind (COCO's -1)."""
        value = self.content["summary"].get(metric)
        return None if value is None or value == -1 else 100 * float(value)

    def number(self, *path: str) -> float | None:
        """A finite number of result.json; None where there is none."""
        value: Any = self.content
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    @property
    def variant(self) -> str:
        """Equal for two runs that differ in the seed alone."""
        return config_hash(self.repeated)

    @property
    def repeated(self) -> dict[str, Any]:
        """The configuration without what differs from seed to seed.

        What a group says counts where it is used: the neck has its own copy of the solver and the cross-scale block, an
        FPN has none, and the order of the images follows the seed unless it was given one.
        """
        config = {key: value for key, value in self.content["config"].items() if key not in ("solver", "csc")}
        if isinstance(config.get("data"), Mapping) and "data.seed" not in self.overrides:
            config["data"] = {**config["data"], "seed": None}
        return {**config, "seed": None}


@dataclass(frozen=True)
class Row:
    """Runs that differ in the seed alone, in the order of their seeds."""

    name: str
    runs: tuple[SweptRun, ...] = field(default_factory=tuple)

    @property
    def settings(self) -> Mapping[str, str]:
        """What its runs were started with, by name."""
        return self.runs[0].overrides if self.runs else {}

    @property
    def by_seed(self) -> dict[int, SweptRun]:
        """The runs by their seeds."""
        return {run.seed: run for run in self.runs}

    @property
    def is_recorded(self) -> bool:
        """Whether it has runs of a table, of which nobody knows that they were timed on one machine and day."""
        return any(run.sha256 for run in self.runs)

    def values(self, metric: str) -> list[float]:
        """The metric of every run; empty unless every run has it."""
        found = [value for run in self.runs if (value := run.value(metric)) is not None]
        return found if len(found) == len(self.runs) else []

    def cost(self, *path: str) -> float | None:
        """Median of a number of result.json over the runs that have it."""
        values = [value for run in self.runs if (value := run.number(*path)) is not None]
        return statistics.median(values) if values else None


def read_sweep(folder: Path) -> tuple[list[Row], list[tuple[Path, str]]]:
    """(rows in the order of their names, what was left out and why).

    A row is named by the settings in which the runs differ; by their values alone where one setting was swept.
    """
    runs, left = [], []
    for path in sorted(folder.rglob("result.json")):
        reason, content = _content(path)
        if content is None:
            left.append((path, reason))
        else:
            runs.append(SweptRun(path.parent, content, _overrides(path.parent)))
    folders = {path.parent for path in folder.rglob("last.ckpt")}
    left += [(f, "unfinished: no result.json") for f in sorted(folders) if not (f / "result.json").is_file()]
    kept: dict[tuple[str, int], SweptRun] = {}
    for run in runs:
        first = kept.setdefault((run.variant, run.seed), run)
        if first is not run:
            left.append((run.folder, f"the same run as {first.folder}, same seed"))
    return _rows(list(kept.values())), left


def merge_rows(rows: Sequence[Row], more: Sequence[Row]) -> tuple[list[Row], list[tuple[str, int]]]:
    """Put rows together by name; (rows in the order of their names, (name, seed) of what both had)."""
    merged, repeated = {row.name: row for row in rows}, []
    for row in more:
        first = merged.get(row.name, Row(row.name))
        new = [run for run in row.runs if run.seed not in first.by_seed]
        repeated += [(row.name, run.seed) for run in row.runs if run.seed in first.by_seed]
        merged[row.name] = Row(row.name, tuple(sorted((*first.runs, *new), key=lambda run: run.seed)))
    return [merged[name] for name in sorted(merged)], repeated


def _content(path: Path) -> tuple[str, dict[str, Any] | None]:
    """("", result.json of a finished training) or (why it is none, None)."""
    try:
        content = read_json(path)
    except ConfigError as error:
        return str(error).removeprefix(f"{path} "), None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict) or not _whole(content.get("seed")):
        return "is no result of a training", None
    if content.get("complete") is not True:
        return f"unfinished: stopped after {content.get('steps')} steps", None
    summary = content.get("summary")
    if not isinstance(summary, dict) or not all(_in_unit_range(summary.get(m, -1)) for m in METRICS):
        return "was never validated", None
    return "", content


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _in_unit_range(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and (value == -1 or 0 <= value <= 1)


def _overrides(folder: Path) -> dict[str, str]:
    """What the run was started with, as Hydra noted it beside the run; empty where there is no such note."""
    try:
        given = read_yaml(folder / "hydra" / "overrides.yaml")
    except ConfigError:
        return {}
    texts = given if isinstance(given, list) else []
    pairs = [text.lstrip("+~").partition("=") for text in texts if isinstance(text, str)]
    return {name: value for name, _, value in pairs if name.partition(".")[0] not in _NOT_SETTINGS}


def _rows(runs: Sequence[SweptRun]) -> list[Row]:
    groups: dict[str, list[SweptRun]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    ordered = [sorted(group, key=lambda r: r.seed) for group in groups.values()]
    names = _names([group[0] for group in ordered])
    rows = [Row(name, tuple(group)) for name, group in zip(names, ordered, strict=True)]
    return sorted(rows, key=lambda row: row.name)


def _names(runs: Sequence[SweptRun]) -> list[str]:
    """A short and different name for each run; its row of a table, or "all", where there is one."""
    if len(runs) == 1:
        return [runs[0].overrides.get("row", "all")]
    names = _named_by([run.overrides for run in runs])
    if len(set(names)) == len(runs):
        return names
    # Started by hand, or by an older configuration: the settings themselves tell them apart.
    settings = [dict(_leaves(run.repeated, "")) for run in runs]
    return [" ".join(filter(None, pair)) for pair in zip(names, _named_by(settings), strict=True)]


def _named_by(settings: Sequence[Mapping[str, object]]) -> list[str]:
    keys = sorted(key for key in set().union(*settings) if len({str(s.get(key)) for s in settings}) > 1)
    if len(keys) == 1 and all(keys[0] in s for s in settings):
        return [str(s[keys[0]]) for s in settings]
    return [" ".join(f"{key}={s[key]}" for key in keys if key in s) or ("default" if keys else "") for s in settings]


def names_without(rows: Sequence[Row], key: str | None) -> list[str]:
    """Names of rows that leave out one setting: equal for rows that differ in nothing else."""
    if key is None:
        return [row.name for row in rows]
    return _named_by([{name: value for name, value in row.settings.items() if name != key} for row in rows])


def _leaves(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        below = f"{path}.{key}" if path else str(key)
        if not path and key in (*_NOT_SETTINGS, "callbacks"):
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, below)
        else:
            yield below, value
