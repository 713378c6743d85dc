"""Differences between the rows of a sweep, paired by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from ifpn.config.allowlist import check_targets
from ifpn.errors import ConfigError, UserError
from ifpn.evaluation import GroundTruth, ScoredMatches, read_predictions
from ifpn.evaluation.bootstrap import Floats, resampled_ap
from ifpn.evaluation.paired import PairedDifference, images_interval, paired_difference
from ifpn.runs.sweep import Row, SweptRun, names_without

Resampled = Callable[[Path], Floats]  # a predictions.json -> its AP on each resample


@dataclass(frozen=True)
class Contrast:
    """One row less another, over the seeds that both have.

    Attributes:
        name: what the difference is called.
        a, b: names of the rows.
        metric: of COCO's numbers.
        seeds: the pairs.
        over_seeds: None where no seed is in both rows.
        over_images: the bootstrap's 95 % interval in percent, where the runs left their predictions; AP only.
    """

    name: str
    a: str
    b: str
    metric: str
    seeds: tuple[int, ...]
    over_seeds: PairedDifference | None
    over_images: tuple[float, float] | None


def asked_for(cfg: DictConfig, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """(name, row, row) of every difference: the named ones whose rows were run, and all rows less the baseline.

    Raises:
        ConfigError: a baseline that is no row, a contrast that is not of the form `a - b`, or `within` without sense.
    """
    found, names = [], [row.name for row in rows]
    for name, text in (cfg.get("contrasts") or {}).items():
        a, minus, b = str(text).partition(" - ")
        if not minus:
            raise ConfigError(f"contrasts.{name}={text}: must be two rows, 'a - b', of {', '.join(names)}.")
        if a.strip() in names and b.strip() in names:
            found.append((str(name), a.strip(), b.strip()))
    if cfg.baseline is not None:
        groups, short = _groups(rows, cfg.get("within")), names_without(rows, cfg.get("within"))
        if cfg.baseline not in short:
            choice = ", ".join(dict.fromkeys(short))
            raise ConfigError(f"baseline={cfg.baseline}: must be a row of this sweep: {choice}.")
        named = {(a, b) for _, a, b in found}
        bases = {group: name for group, name, text in zip(groups, names, short, strict=True) if text == cfg.baseline}
        found += [
            (f"{name} - {cfg.baseline}", name, bases[group])
            for group, name in zip(groups, names, strict=True)
            if group in bases and name != bases[group] and (name, bases[group]) not in named
        ]
    elif cfg.get("within") is not None:
        raise ConfigError(f"within={cfg.within}: needs a baseline=ROW to compare with.")
    return found


def _groups(rows: Sequence[Row], within: str | None) -> list[str]:
    """The value of the setting in whose values rows are compared; one group without it."""
    if within is None:
        return [""] * len(rows)
    swept = sorted(set().union(*(row.settings for row in rows)))
    if within not in swept:
        raise ConfigError(f"within={within}: must be a setting of these runs: {', '.join(swept)}.")
    return [row.settings.get(within, "") for row in rows]


def contrast(name: str, a: Row, b: Row, metric: str, resampled: Resampled | None) -> Contrast:
    """Pair two rows by seed; runs whose validation set has no box of the kind are no pair."""
    pairs, first, second = [], [], []
    for seed in sorted(a.by_seed.keys() & b.by_seed.keys()):
        x, y = a.by_seed[seed].value(metric), b.by_seed[seed].value(metric)
        if x is not None and y is not None:
            pairs.append((a.by_seed[seed], b.by_seed[seed]))
            first.append(x)
            second.append(y)
    over_seeds = paired_difference(first, second) if pairs else None
    over_images = None if resampled is None else _over_images(pairs, resampled)
    return Contrast(name, a.name, b.name, metric, tuple(run.seed for run, _ in pairs), over_seeds, over_images)


def _over_images(pairs: Sequence[tuple[SweptRun, SweptRun]], resampled: Resampled) -> tuple[float, float] | None:
    files = [[run.folder / "predictions.json" for run in pair] for pair in pairs]
    if not files or not all(file.is_file() for pair in files for file in pair):
        return None
    low, high = images_interval([(resampled(a), resampled(b)) for a, b in files])
    return 100 * low, 100 * high


class Truths:
    """The validation boxes that rows were scored on, and each run's APs on resamples of the images."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._read: dict[str, GroundTruth | None] = {}
        self._resampled: dict[Path, Floats] = {}

    def of(self, rows: Sequence[Row]) -> GroundTruth | None:
        """None where the rows' data differ, or are not there any more."""
        runs = [run for row in rows for run in row.runs]
        if any("data" not in run.content["config"] for run in runs):  # known from a table alone
            return None
        nodes: list[Mapping[str, Any]] = [run.content["config"]["data"] for run in runs]
        keys = {str((n.get("root"), n.get("val_annotations"), n.get("generate"))) for n in nodes}
        key = min(keys)
        if len(keys) > 1:
            self._say("runs were validated on different data.")
            return None
        if key not in self._read:
            self._read[key] = self._load(nodes[0])
        return self._read[key]

    def resampled(self, truth: GroundTruth, resamples: int, file: Path) -> Floats:
        """AP of a predictions.json on each resample; computed once, for all differences that the run is in."""
        if file not in self._resampled:
            self._resampled[file] = resampled_ap(ScoredMatches(truth, read_predictions(file, truth)), resamples)
        return self._resampled[file]

    def _load(self, node: Mapping[str, Any]) -> GroundTruth | None:
        try:
            check_targets(node)
            data = instantiate({**node, "check": False})
            data.use_validation_categories()
            data.setup("validate")
            return GroundTruth.load(data.val_dataset.annotations)
        except (UserError, OSError) as error:
            self._say(str(error))
            return None

    def _say(self, reason: str) -> None:
        self._console.print(f"No interval over images: {reason}", soft_wrap=True)
