"""What a detector found in one image: an object that is indexed, drawn, and turned into others' formats."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ifpn.plots.samples import draw_detections

_FIELDS = ("boxes", "scores", "labels")


class Box(NamedTuple):
    """One detection. box: (x1, y1, x2, y2) in pixels."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


class SolverFacts(NamedTuple):
    """How the fixed point of this image was found. residual: relative, ||f(z) - z|| / ||f(z)||; evals: of G."""

    residual: float
    evals: int


@dataclass(frozen=True, repr=False, eq=False)  # of tensors there is no single answer to "equal?"
class Detections:
    """Detections of one image, best score first.

    `found[0]` is a `Box`, `found[:5]` and `found[found.scores > 0.5]` are detections again, `for box in found` goes
    through them. `found["boxes"]`, `found["scores"]` and `found["labels"]` are the tensors, as of a dictionary.

    Attributes:
        boxes: (M, 4) x1, y1, x2, y2 in pixels of the image, float32, on the CPU.
        scores: (M,) in 0..1.
        labels: (M,) int64, 0..K-1.
        class_names: K names.
        category_ids: K ids of the annotation file.
        image: (3, H, W) uint8, what was looked at.
        solver: how the fixed point was found; None for a detector that solves none.
        source: the file, if it was one.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: Sequence[str]
    category_ids: Sequence[int]
    image: Tensor
    solver: SolverFacts | None = None
    source: Path | None = None

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Box]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        """A tensor by its name, one `Box` by a whole number, or `Detections` by a slice, mask or list of numbers."""
        if isinstance(key, str):
            if key not in _FIELDS:
                raise KeyError(f"{key!r}: must be one of {', '.join(_FIELDS)}")
            return getattr(self, key)
        if not isinstance(key, slice):
            key = torch.as_tensor(key)
            if key.dtype != torch.bool and key.ndim == 0:
                key = index(key)
            elif key.numel() == 0 and key.dtype != torch.bool:  # torch takes an empty list for numbers with a point
                key = key.long()
        if isinstance(key, int):
            x1, y1, x2, y2 = self.boxes[key].tolist()
            label = int(self.labels[key])
            return Box((x1, y1, x2, y2), float(self.scores[key]), label, self.class_names[label])
        return replace(self, boxes=self.boxes[key], scores=self.scores[key], labels=self.labels[key])

    def keys(self) -> tuple[str, ...]:
        """The names of the tensors, so that `dict(found)` works."""
        return _FIELDS

    def __repr__(self) -> str:
        height, width = self.image.shape[1:]
        parts = [f"{self.names.count(name)} {name}" for name in dict.fromkeys(self.names)]
        where = "" if self.source is None else f"{self.source}, "
        facts = self.solver
        solved = "" if facts is None else f"; {facts.evals} evaluations, residual {facts.residual:.1g}"
        best = f", best score {float(self.scores.max()):.2f}" if len(self) else ""
        return f"<{len(self)} detections in {where}{width} x {height}: {', '.join(parts) or 'nothing'}{best}{solved}>"

    def draw(self, score_threshold: float = 0.0) -> Image.Image:
        """The image with boxes, names and scores, enlarged to 640 pixels on its longer side if it is smaller."""
        tensors = {name: getattr(self, name) for name in _FIELDS}
        return draw_detections(self.image, tensors, self.class_names, score_threshold=score_threshold)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of a COCO results file: official category ids, boxes as x, y, width, height."""
        boxes = self.boxes.clone()
        boxes[:, 2:] -= boxes[:, :2]
        return [
            {
                "image_id": image_id,
                "category_id": self.category_ids[label],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "score": score,
            }
            for box, score, label in zip(boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        ]

    def to_supervision(self) -> Any:
        """As `supervision.Detections`, with the names under `data["class_name"]`.

        Raises:
            ModuleNotFoundError: the package `supervision` is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_supervision() needs the package: pip install supervision") from error
        import numpy as np

        return supervision.Detections(
            xyxy=self.boxes.numpy().reshape(-1, 4),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def save(self, path: str | os.PathLike[str], score_threshold: float = 0.0) -> None:
        """Write `draw(score_threshold)` to a file."""
        self.draw(score_threshold).save(path)
