"""What Weights & Biases shows beside curves: boxes that can be switched on and off, and tables of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger, WandbLogger
from torch import Tensor

from ifpn.evaluation import ConfusionMatrix
from ifpn.evaluation.result import CocoResult
from ifpn.plots.boxes import to_picture

_MOST_BOXES = 100  # of an image
_MOST_PAIRS = 1000  # of classes that are taken for each other
_IOUS = {"precision at IoU 0.50": 0, "precision at IoU 0.75": 5}  # places among 0.50, 0.55, …


def log_boxes(
    loggers: Iterable[Logger],
    images: Sequence[Tensor],
    truths: Sequence[Mapping[str, Tensor]],
    found: Sequence[Mapping[str, Tensor]],
    names: Sequence[str],
    step: int,
) -> None:
    """Log validation images as `val/boxes`, with the layers `truth` and `predictions`; the page has a score slider.

    Args:
        loggers: those of Weights & Biases among them are used.
        images: (3, H, W) uint8.
        truths: per image `boxes` (M, 4) xyxy pixels and `labels` (M,).
        found: per image also `scores` (M,), best first.
        names: of the labels.
        step: of the optimiser.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            classes = dict(enumerate(names))
            shown = [
                wandb.Image(
                    to_picture(image),
                    boxes={
                        "truth": {"box_data": _layer(truth, names), "class_labels": classes},
                        "predictions": {"box_data": _layer(detections, names), "class_labels": classes},
                    },
                )
                for image, truth, detections in zip(images, truths, found, strict=True)
            ]
            logger.log_metrics({"val/boxes": shown}, step)  # type: ignore[dict-item]  # media count as metrics


def _layer(boxes: Mapping[str, Tensor], names: Sequence[str]) -> list[dict[str, Any]]:
    scores = boxes["scores"].tolist() if "scores" in boxes else [None] * len(boxes["boxes"])
    rows = zip(boxes["boxes"].tolist(), boxes["labels"].tolist(), scores, strict=True)
    return [
        {
            "position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2},
            "domain": "pixel",
            "class_id": label,
            "box_caption": names[label] if score is None else f"{names[label]} {score:.2f}",
            **({} if score is None else {"scores": {"score": score}}),
        }
        for (x1, y1, x2, y2), label, score in list(rows)[:_MOST_BOXES]
    ]


def log_evaluation(loggers: Iterable[Logger], result: CocoResult, matrix: ConfusionMatrix, step: int) -> None:
    """Log the tables `run/precision_recall_table` and `run/confusion_table`; without the ending they are pictures."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            for name, (columns, rows) in evaluation_tables(result.precision, matrix).items():
                logger.log_table(f"run/{name}_table", columns=columns, data=rows, step=step)


def evaluation_tables(precision: Any, matrix: ConfusionMatrix) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """{"precision_recall": (columns, rows), "confusion": ...}.

    Args:
        precision: (10 IoU thresholds, 101 recalls, K classes), -1 where a class has no boxes: not in the mean.
        matrix: its pairs of classes that occur, most frequent first.
    """
    known = (precision >= 0).any(axis=(0, 1))
    means = [precision[i][:, known].mean(axis=1).tolist() if known.any() else [None] * 101 for i in _IOUS.values()]
    curves = [list(row) for row in zip(np.linspace(0, 1, 101).tolist(), *means, strict=True)]
    names = [*matrix.class_names, "background"]
    cells = [(int(matrix.counts[i, j]), names[i], names[j]) for i, j in np.argwhere(matrix.counts > 0)]
    pairs = [[truth, predicted, count] for count, truth, predicted in sorted(cells, key=lambda c: -c[0])[:_MOST_PAIRS]]
    return {
        "precision_recall": (["recall", *_IOUS], curves),
        "confusion": (["truth", "predicted", "boxes"], pairs),
    }
