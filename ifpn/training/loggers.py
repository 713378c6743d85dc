"""The loggers: metrics.csv without a gap or a repetition, whenever the run was killed; a run on Weights & Biases.

Each checkpoint holds the number of rows that were on disk when it was written; a run resumed from it keeps exactly
these rows and writes the others again.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric.loggers.logger import rank_zero_experiment
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from ifpn.errors import ConfigError
from ifpn.runs.files import replacing, write_error

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
    """Keep the first `count` rows of `path`; a half-written last row of a killed run goes too.

    Raises:
        ConfigError: the file is damaged.
    """
    names, rows = _read(path) if path.is_file() else ([], [])
    if len(rows) < count:
        log.warning("%s has %d rows, and its run had written %d: the others are lost.", path, len(rows), count)
    if path.is_file():
        _replace(path, names, rows[:count])


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        with open(path, newline="") as file:
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
    """Lightning's logger, closed at the end of a training.

    Left open, a run would take in the next row of a sweep: Lightning's logger joins whatever run it finds.
    """

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


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
