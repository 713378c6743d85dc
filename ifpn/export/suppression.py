"""Class-wise non-maximum suppression of a batch, as a mask of fixed size that every format can hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.onnx import is_in_onnx_export
from torchvision.ops import nms


def keep_mask(boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, threshold: float) -> Tensor:
    """Which candidates survive: greedy suppression within each image and class.

    Args:
        boxes: (N, M, 4) x1, y1, x2, y2.
        scores: (N, M); candidates that are not positive take no part.
        labels: (N, M) in 0..classes-1.
        classes: number of classes.
        threshold: IoU above which the weaker of two boxes goes.

    Returns:
        (N, M) bool.
    """
    if is_in_onnx_export():
        kept: Tensor = _OnnxSuppression.apply(boxes, scores, labels, classes, threshold)
        return kept
    return _at_once(boxes, scores, labels, classes, threshold)


def _at_once(boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, threshold: float) -> Tensor:
    """One suppression of all images: each image and class is shifted to a place of its own, in double precision.

    Candidates without a positive score come last and so suppress nobody that counts.
    """
    images, places = scores.shape
    flat = boxes.double() - boxes.amin()
    room = torch.arange(images, device=boxes.device)[:, None] * classes + labels
    shifted = flat + (room * (flat.amax() + 1))[..., None]
    best = nms(shifted.flatten(0, 1), scores.flatten().double(), threshold)
    kept = torch.zeros_like(scores).flatten().index_fill(0, best, 1.0)
    return (kept.reshape(images, places) > 0) & (scores > 0)


class _OnnxSuppression(torch.autograd.Function):
    """ONNX has the operator, for whole batches and by class; its indices become the mask."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, threshold: float) -> Tensor:
        """Give the exporter a mask of the right shape; the file computes the right one."""
        del ctx, boxes, labels, classes, threshold
        return scores > 0

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, labels: Any, classes: int, threshold: float) -> Any:
        """Emit NonMaxSuppression on scores (N, K, M), then a scatter of its (image, class, candidate) rows."""
        numbers = g.op("Constant", value_t=torch.arange(classes).reshape(1, classes, 1))
        own = g.op("Equal", g.op("Unsqueeze", labels, _one(g, 1)), numbers)  # (N, K, M)
        absent = g.op("Constant", value_t=torch.tensor(-1.0))
        by_class = g.op("Where", own, g.op("Unsqueeze", scores, _one(g, 1)), absent)
        most = g.op("Constant", value_t=torch.tensor([2**31 - 1]))
        limit = g.op("Constant", value_t=torch.tensor([threshold], dtype=torch.float32))
        lowest = g.op("Constant", value_t=torch.tensor([0.0]))
        rows = g.op("NonMaxSuppression", boxes, by_class, most, limit, lowest)  # (S, 3)
        where = g.op("Gather", rows, g.op("Constant", value_t=torch.tensor([0, 2])), axis_i=1)  # (S, 2)
        zeros = g.op("Mul", scores, g.op("Constant", value_t=torch.tensor(0.0)))
        first = g.op("Gather", rows, g.op("Constant", value_t=torch.tensor(0)), axis_i=1)
        ones = g.op(
            "Add", g.op("Mul", g.op("Cast", first, to_i=1), lowest), g.op("Constant", value_t=torch.tensor(1.0))
        )
        marked = g.op("ScatterND", zeros, where, ones)
        kept = g.op("Greater", marked, g.op("Constant", value_t=torch.tensor(0.5)))
        kept.setType(scores.type().with_dtype(torch.bool))
        return kept


def _one(g: Any, axis: int) -> Any:
    return g.op("Constant", value_t=torch.tensor([axis]))
