"""COCO's numbers as a torchmetrics metric, for users who compose their own modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ifpn.evaluation.coco import CocoEvaluator
from ifpn.evaluation.engines import Engine

_FIELDS = 6  # x1, y1, x2, y2, score, label


class CocoMetric(Metric):
    """The 12 COCO numbers over a whole data set; an image that several ranks see counts once.

    Unlike ``torchmetrics.detection.MeanAveragePrecision`` it knows the ground truth, so crowd regions count
    as COCO's, and ``target`` needs only the image id.

    Args:
        ground_truth, category_ids, engine, max_detections: as :class:`CocoEvaluator`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    found: list[Tensor] | Tensor

    def __init__(
        self,
        ground_truth: str | Path | Mapping[str, Any] | Any,
        category_ids: Sequence[int] | Mapping[int, int],
        engine: Engine = "auto",
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.evaluator = CocoEvaluator(ground_truth, category_ids, engine, max_detections)
        # One flat row of numbers per image, [id, count, count x (box, score, label)]: a rank without images
        # then gathers as an empty row. float64 holds every id up to 2^53 and every fp32 box exactly.
        self.set_dtype(torch.float64)
        self.add_state("found", default=[], dist_reduce_fx="cat")

    def update(self, preds: Sequence[Mapping[str, Tensor]], target: Sequence[Mapping[str, Any]]) -> None:
        """Add some images.

        Args:
            preds: per image ``boxes`` (M, 4) xyxy pixels, ``scores`` (M,), ``labels`` (M,) in 0..K-1.
            target: per image ``image_id``, an int or a tensor with one element; other keys are ignored.

        Raises:
            ValueError: for lists of different lengths, and a target without ``image_id``.
        """
        if isinstance(self.found, Tensor):
            raise RuntimeError("update() after the states were synchronised; call reset() first")
        if len(preds) != len(target):
            raise ValueError(f"{len(preds)} predictions for {len(target)} targets")
        for i, image in enumerate(target):
            if "image_id" not in image:
                found = ", ".join(map(str, image)) or "nothing"
                raise ValueError(
                    f"target {i} has no image_id (it has: {found}): give the id of the image in the ground truth"
                )
        for detection, image in zip(preds, target, strict=True):
            rows = torch.cat(
                [
                    detection["boxes"].reshape(-1, 4).double(),
                    detection["scores"].double()[:, None],
                    detection["labels"].double()[:, None],
                ],
                dim=1,
            )
            head = rows.new_tensor([int(image["image_id"]), len(rows)])
            self.found.append(torch.cat([head, rows.flatten()]))

    def compute(self) -> dict[str, Tensor]:
        """{"AP": ..., ...}: twelve scalars, -1 where the ground truth has no such box."""
        flat = dim_zero_cat(self.found).cpu() if len(self.found) else torch.empty(0)
        self.evaluator.reset()
        start = 0
        while start < len(flat):
            image_id, count = int(flat[start]), int(flat[start + 1])
            end = start + 2 + count * _FIELDS
            rows = flat[start + 2 : end].view(count, _FIELDS)
            detection = {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5]}
            self.evaluator.update([image_id], [detection])
            start = end
        summary = self.evaluator.compute().summary
        return {name: torch.tensor(value, device=self.device) for name, value in summary.items()}
