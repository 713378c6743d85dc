"""A run on Weights & Biases: its configuration, pictures and tables, with or without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger

Rows = list[list[str | float | None]]


class WandbRun(WandbLogger):
    """Lightning's logger, closed at the end of a training.

    Left open, a run would take in the next row of a sweep: Lightning's logger joins whatever run it finds.
    """

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


def log_media(logger: WandbLogger, pictures: Sequence[Path], scores: Mapping[str, Any]) -> None:
    """Log pictures as `run/<name>`, and the tables `run/summary` and `run/per_class`.

    scores: `summary` {metric: value in 0..1} and `per_class` {class: {"AP", "AP50", "AR100", "boxes"}}, both None
    before the first validation. COCO's -1, where there is nothing to find, becomes an empty cell.
    """
    for picture in pictures:
        logger.log_image(f"run/{picture.stem}", [str(picture)])
    for name, (columns, rows) in media_tables(scores).items():
        logger.log_table(f"run/{name}", columns=columns, data=rows)


def media_tables(scores: Mapping[str, Any]) -> dict[str, tuple[list[str], Rows]]:
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
