"""Collects detections, image by image and rank by rank, and scores them as COCO does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from ifpn.errors import ConfigError, UserError
from ifpn.evaluation.engines import Engine, accumulate, resolve_engine
from ifpn.evaluation.ground_truth import CocoDetection, GroundTruth
from ifpn.evaluation.result import CocoResult


class ImageDetections(NamedTuple):
    """Detections of one image: boxes (M, 4) x, y, w, h in pixels; scores and category ids (M,)."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    categories: NDArray[np.int64]


class CocoEvaluator:
    """COCO's box evaluation over a whole validation set, each image counted once.

    A distributed sampler repeats images to give every rank the same number; of an image seen twice, only the
    first detections count. With several processes call :meth:`gather` on each before :meth:`compute`.

    Args:
        ground_truth: annotations read by `ifpn.data`, the path of a COCO file, its content, or a
            ``pycocotools.coco.COCO`` object.
        category_ids: official id of each label 0..K-1, as a sequence or a {label: id} mapping.
        engine: "auto" (faster-coco-eval where installed; same numbers), "faster-coco-eval" or "pycocotools".
        max_detections: detections of an image and class that count; COCO's are 100.

    Raises:
        ValueError: unusable annotations, or category ids they do not have.
    """

    def __init__(
        self,
        ground_truth: str | Path | Mapping[str, Any] | GroundTruth | Any,
        category_ids: Sequence[int] | Mapping[int, int],
        engine: Engine = "auto",
        max_detections: int = 100,
    ) -> None:
        self.ground_truth = GroundTruth.load(ground_truth)
        if max_detections < 10:  # COCO's other limits are 1 and 10
            raise UserError(f"max_detections={max_detections}: allowed are numbers from 10 on")
        self.max_detections = max_detections
        self.category_ids = label_order(category_ids)
        unknown = [key for key in self.category_ids if key not in self.ground_truth.category_names]
        if unknown or len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError(
                f"category_ids={list(self.category_ids)}: "
                + (f"{unknown} not in {self.ground_truth.source}" if unknown else "an id is repeated")
                + f", which has {sorted(self.ground_truth.category_names)}"
            )
        self.engine = resolve_engine(engine)
        self._known = frozenset(self.ground_truth.image_ids)
        self._found: dict[int, ImageDetections] = {}

    @property
    def image_ids(self) -> Sequence[int]:
        """Ids of all images of the ground truth."""
        return self.ground_truth.image_ids

    @property
    def category_names(self) -> Mapping[int, str]:
        """{official id: name} of all classes of the ground truth."""
        return self.ground_truth.category_names

    def reset(self) -> None:
        """Forget all detections."""
        self._found = {}

    def update(self, image_ids: Sequence[int], detections: Sequence[Mapping[str, Tensor]]) -> None:
        """Add the detections of some images; an image without any counts too and must be given.

        Args:
            image_ids: official ids.
            detections: per image ``boxes`` (M, 4) xyxy in pixels of the original image, ``scores`` (M,),
                ``labels`` (M,) in 0..K-1; on any device.

        Raises:
            UserError: unknown image, label outside 0..K-1, numbers that are not finite, boxes of negative
                size.
        """
        if len(image_ids) != len(detections):
            raise ValueError(f"{len(image_ids)} image ids for {len(detections)} detection dicts")
        for image_id, detection in zip(image_ids, detections, strict=True):
            self._check_image(image_id)
            found = self._converted(image_id, detection)
            self._found.setdefault(int(image_id), found)

    def update_records(self, records: Iterable[CocoDetection]) -> None:
        """Add a whole prediction list (see :func:`ifpn.evaluation.read_predictions`).

        Images it does not mention count as images without detections. Records of classes outside
        ``category_ids`` are left out.
        """
        wanted = frozenset(self.category_ids)
        grouped: dict[int, list[CocoDetection]] = {image_id: [] for image_id in self.image_ids}
        for record in records:
            self._check_image(record["image_id"])
            if record["category_id"] in wanted:
                grouped[record["image_id"]].append(record)
        for image_id, entries in grouped.items():
            found = ImageDetections(
                np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4),
                np.array([entry["score"] for entry in entries], dtype=np.float64),
                np.array([entry["category_id"] for entry in entries], dtype=np.int64),
            )
            self._found.setdefault(image_id, found)

    def gather(self) -> None:
        """Give every process the detections of all; every process must call it. Alone, nothing happens."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        everyone: list[dict[int, ImageDetections] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, self._found)
        merged: dict[int, ImageDetections] = {}
        for found in everyone:
            merged = {**(found or {}), **merged}  # the lower rank's detections of an image win, on every rank
        self._found = merged

    def predictions(self) -> list[CocoDetection]:
        """All detections as COCO's result list: official ids, boxes as x, y, w, h, ordered by image id."""
        return [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for image_id, found in sorted(self._found.items())
            for box, score, category in zip(
                found.boxes.tolist(), found.scores.tolist(), found.categories.tolist(), strict=True
            )
        ]

    def compute(self) -> CocoResult:
        """Score the images seen so far; `images` and `images_total` of the result say of how many.

        Raises:
            ValueError: no image was seen.
        """
        if not self._found:
            raise ValueError("there is nothing to evaluate: update() was called for no image")
        truth = self.ground_truth
        if len(self._found) < len(truth.image_ids):
            truth = truth.subset(self._found)
        ascending = sorted(self.category_ids)  # the engines sort the classes
        found = accumulate(truth, self.predictions(), ascending, self.engine, self.max_detections)
        order = [ascending.index(category_id) for category_id in self.category_ids]
        found.precision[:] = found.precision[:, :, order]
        found.recall[:] = found.recall[:, order]
        return CocoResult.from_accumulated(found, truth, self.category_ids, len(self.image_ids))

    def _check_image(self, image_id: int) -> None:
        if image_id not in self._known:
            raise UserError(f"image id {image_id!r} is not in {self.ground_truth.source}")

    def _converted(self, image_id: int, detection: Mapping[str, Tensor]) -> ImageDetections:
        boxes = detection["boxes"].detach().to("cpu", torch.float64).numpy().reshape(-1, 4)
        scores = detection["scores"].detach().to("cpu", torch.float64).numpy()
        labels = detection["labels"].detach().to("cpu", torch.int64).numpy()
        if not len(boxes) == len(scores) == len(labels):
            raise ValueError(f"image {image_id}: {len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels")
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        bad = ~np.isfinite(boxes).all(axis=1) | ~np.isfinite(scores) | (xywh[:, 2:] < 0).any(axis=1)
        bad |= (labels < 0) | (labels >= len(self.category_ids))
        if bad.any():
            i = int(bad.argmax())
            raise UserError(
                f"image {image_id}: detection {i} has box (x1, y1, x2, y2) {boxes[i].tolist()}, score "
                f"{scores[i]}, label {labels[i]}; allowed are finite numbers, x1 <= x2, y1 <= y2 and labels "
                f"0..{len(self.category_ids) - 1}"
            )
        return ImageDetections(xywh, scores, np.asarray(self.category_ids, dtype=np.int64)[labels])


def label_order(category_ids: Sequence[int] | Mapping[int, int]) -> tuple[int, ...]:
    """Official ids in the order of the labels 0..K-1."""
    if not isinstance(category_ids, Mapping):
        return tuple(int(key) for key in category_ids)
    if sorted(category_ids) != list(range(len(category_ids))):
        raise ValueError(
            f"category_ids maps the labels {sorted(category_ids)}; they must be 0..{len(category_ids) - 1}"
        )
    return tuple(int(category_ids[label]) for label in range(len(category_ids)))


def match_classes(model: Sequence[str], data: Sequence[str]) -> torch.Tensor:
    """For each label of the model, the label of the data set with the same name: (K,) int64.

    Raises:
        ConfigError: a class of the model is not in the data set.
    """
    unknown = [name for name in model if name not in data]
    if unknown:
        raise ConfigError(
            f"the checkpoint knows classes {unknown} that the data set does not have (it has {list(data)}): "
            "evaluate on a data set with the same class names."
        )
    return torch.tensor([list(data).index(name) for name in model], dtype=torch.int64)
