"""metrics.csv that survives a resume: rows up to the checkpoint stay, rows after it are written again once."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter


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
    """Lightning's writer deletes the file it finds; this one takes over its header and appends."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with open(path, newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])


def keep_rows_before(path: Path, step: int) -> None:
    """Drop the rows of `path` from optimiser step `step` on (0-based): a run resumed there logs them again."""
    if not path.is_file():
        return
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        rows = [row for row in reader if row.get("step", "").isdigit() and int(row["step"]) < step]
    beside = path.with_suffix(".partial")
    with open(beside, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(path)
