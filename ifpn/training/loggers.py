"""The loggers: metrics.csv without a gap or a repetition, whenever the run was killed; a run on Weights & Biases.

Each checkpoint holds the number of rows that were on disk when it was written; a run resumed from it keeps exactly
these rows and writes the others again.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from lightning_fabric.loggers.logger import rank_zero_experiment
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from ifpn.errors import ConfigError
from ifpn.runs.checkpoint import read_checkpoint
from ifpn.runs.export import export
from ifpn.runs.files import replacing, write_error
from ifpn.runs.folder import EXPORT, LAST, METRICS
from ifpn.runs.identity import split_overrides

log = logging.getLogger(__name__)

TableRows = list[list[str | float | None]]


class MetricsLog(CSVLogger):
    """Lightning's CSV logger, writing `<save_dir>/metrics.csv` and continuing the one it finds there."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _ContinuingWriter(log_dir=self.log_dir)
        return self._experiment


class _ContinuingWriter(ExperimentWriter):
    """Lightning's writer deletes the file it finds and rewrites it in place; this one appends and renames."""

    rows = 0

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            self.metrics_keys, rows = _read(path)
            self.rows = len(rows)

    def save(self) -> None:
        new = len(self.metrics)
        try:
            super().save()
        except OSError as error:
            raise write_error(Path(self.metrics_file_path), error) from error
        self.rows += new

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        _replace(path, fieldnames, _read(path)[1])


def rows_on_disk(loggers: Iterable[Logger]) -> int:
    """Write out what a MetricsLog among `loggers` still holds; the number of rows in its file then, 0 without one."""
    for logger in loggers:
        if isinstance(logger, MetricsLog) and isinstance(logger.experiment, _ContinuingWriter):
            logger.save()
            return logger.experiment.rows
    return 0


def keep_rows(path: Path, count: int) -> None:
    """Keep the first `count` rows of `path`; a half-written last row of a killed run goes too, and is named.

    Raises:
        ConfigError: the file is damaged.
    """
    names, rows = _read(path) if path.is_file() else ([], [])
    if rows and not path.read_bytes().endswith(b"\n"):
        rows.pop()
        log.warning("%s: row %d was cut off in the middle and is removed.", path, len(rows) + 1)
    if len(rows) < count:
        log.warning("%s has %d rows, and its run had written %d: the others are lost.", path, len(rows), count)
    if path.is_file():
        _replace(path, names, rows[:count])


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            return names, list(reader)
    except (csv.Error, ValueError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}): move it away, and the run goes on with a new one from the checkpoint on."
        ) from error


def _replace(path: Path, names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with replacing(path) as binary:
        file = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        file.detach()


class WandbRun(WandbLogger):
    """Lightning's logger: one run per run folder, named by what was asked for, closed at the end of a training.

    The id of the run is kept in `<save_dir>/wandb/run_id`, so that a resumed training goes on in the same run, offline
    too: `wandb sync` puts the parts together. An agent of `wandb sweep` gives its own id.

    Args:
        save_dir: the run folder.
        settings: what was asked for, `csc=dense,seed=1`; the run is named after it where `name` is not given.
        choices: group: option; plain columns `choices.…` of the configuration.
        log_model: upload `<save_dir>/export` as an artifact with the alias `best`, and last.ckpt, exported, as `last`.
        group, job_type, tags: of a row of an experiment; a run without a group has none of them.
        options: Lightning's, and those of `wandb.init`.
    """

    def __init__(
        self,
        save_dir: str,
        settings: str = "",
        choices: Mapping[str, str | None] | None = None,
        log_model: bool = False,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.folder, self.choices, self.upload = Path(save_dir), dict(choices or {}), log_model
        self.best: float | None = None
        options["name"] = options.get("name") or short_name(settings, self.folder.name) or self.folder.name
        row: dict[str, Any] = {"group": group, "job_type": job_type, "tags": list(tags or [])} if group else {}
        options.setdefault("id", run_id(self.folder))
        if options.get("offline"):
            options.setdefault("resume", None)  # the sync does it
        super().__init__(save_dir=save_dir, **row, **options)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run; made, and its id written down, when it is first asked for."""
        if self._experiment is None:
            kept = self.folder / _RUN_ID
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(f"{self._wandb_init['id']}\n")
            run: Any = super().experiment
            if self.choices:
                run.config.update({"choices": self.choices}, allow_val_change=True)
        return self._experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add `val/best_AP`, the best of all validations, also of those before a resume: what runs are sorted by."""
        if "val/AP" in metrics:
            before = self.best if self.best is not None else _best_on_disk(self.folder / METRICS)
            self.best = max(before, float(metrics["val/AP"]))
            metrics = {**metrics, "val/best_AP": self.best}
        super().log_metrics(metrics, step)

    def finalize(self, status: str) -> None:
        """Upload the export, if asked to. Left open, a run would take in the next row of a sweep."""
        super().finalize(status)
        if self._experiment is not None:
            if self.upload and status == "success":
                self._log_export()
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None

    def _log_export(self) -> None:
        import wandb

        last = self.folder / "wandb" / "last"
        if (self.folder / LAST).is_file():
            export(read_checkpoint(self.folder / LAST), last)
        for alias, folder in (("last", last), ("best", self.folder / EXPORT)):
            if folder.is_dir():
                artifact = wandb.Artifact(f"detector-{self._wandb_init['id']}", type="model")
                # Not copied: an offline run is synced from this folder.
                artifact.add_dir(str(folder), policy="immutable")
                self.experiment.log_artifact(artifact, aliases=[alias])


_RUN_ID = Path("wandb", "run_id")
# Where and how a run computes, and what its group says already.
_UNNAMED = ("logger", "trainer", "callbacks", "experiment", "run_dir", "ckpt", "data.root", "data.num_workers")


def _best_on_disk(path: Path) -> float:
    rows = _read(path)[1] if path.is_file() else []
    return max((float(row["val/AP"]) for row in rows if row.get("val/AP")), default=-1.0)  # COCO's: nothing to find


def run_id(folder: Path) -> str:
    """The id of the agent's run, or of the run in `folder`, or a new one: eight letters and digits."""
    kept = folder / _RUN_ID
    return os.environ.get("WANDB_RUN_ID") or (kept.read_text().strip() if kept.is_file() else "") or uuid4().hex[:8]


def short_name(settings: str, folder: str = "") -> str:
    """`csc=dense,solver.train_evals=5,logger=wandb` as `dense,train_evals=5`; in the order of a sweep's `folder`."""

    def place(setting: str) -> int:
        found = folder.find(setting)
        return len(folder) if found < 0 else found

    words = []
    for setting in sorted(split_overrides(settings), key=place):
        key, _, value = setting.partition("=")
        key = key.lstrip("+~")
        if key and not any(key == one or key.startswith(f"{one}.") for one in _UNNAMED):
            # A choice of a group speaks for itself; a number does not.
            words.append(
                value if re.fullmatch(r"[a-z]+", key) and not _NUMBER.fullmatch(value) else f"{_last(key)}={value}"
            )
    return ",".join(words)


_NUMBER = re.compile(r"[\d.eE+-]+|true|false|null")


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def log_pictures(loggers: Iterable[Logger], pictures: Sequence[Path], step: int) -> None:
    """Log PNG files as `run/<name>` to every logger that shows pictures: Weights & Biases and TensorBoard."""
    for logger in loggers:
        for picture in pictures:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"run/{picture.stem}", [str(picture)])
            elif isinstance(logger, TensorBoardLogger):
                with Image.open(picture) as file:
                    pixels = np.asarray(file.convert("RGB"))
                logger.experiment.add_image(f"run/{picture.stem}", pixels, step, dataformats="HWC")


COSTS = ("train/seconds_per_step", "train/memory_mib")


def log_costs(loggers: Iterable[Logger], seconds: float, mebibytes: float, step: int) -> None:
    """Log the cost of a step to every logger but metrics.csv, which is the same however often a run was resumed."""
    for logger in loggers:
        if not isinstance(logger, CSVLogger):
            logger.log_metrics(dict(zip(COSTS, (seconds, mebibytes), strict=True)), step - 1)  # rows begin at 0


def log_tables(logger: WandbLogger, scores: Mapping[str, Any]) -> None:
    """Log the tables `run/summary` and `run/per_class`.

    scores: `summary` {metric: value in 0..1} and `per_class` {class: {"AP", "AP50", "AR100", "boxes"}}, both None
    before the first validation. COCO's -1, where there is nothing to find, becomes an empty cell.
    """
    for name, (columns, rows) in media_tables(scores).items():
        logger.log_table(f"run/{name}", columns=columns, data=rows)


def media_tables(scores: Mapping[str, Any]) -> dict[str, tuple[list[str], TableRows]]:
    """{"summary": (columns, rows), "per_class": ...} of `scores`; empty before the first validation."""
    summary, classes = scores.get("summary"), scores.get("per_class")
    if not summary or classes is None:
        return {}
    heads = ["boxes", "AP", "AP50", "AR100"]
    return {
        "summary": (["metric", "value"], [[name, _known(value)] for name, value in summary.items()]),
        "per_class": (["class", *heads], [[name, *(_known(row[h]) for h in heads)] for name, row in classes.items()]),
    }


def _known(value: float) -> float | None:
    return None if value == -1 else float(value)
