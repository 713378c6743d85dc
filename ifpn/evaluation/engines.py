"""The two programs that compute COCO's precision and recall: pycocotools, and its faster C++ twin.

pycocotools is the reference. faster-coco-eval gives the same numbers to 1e-9 (a test compares them on random
cases with crowd regions, more than 100 detections, ties and empty images), several times faster; it is used
where installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ifpn.errors import UserError
from ifpn.evaluation.ground_truth import CocoDetection, GroundTruth

Engine = Literal["auto", "faster-coco-eval", "pycocotools"]


@dataclass(frozen=True)
class Accumulated:
    """What COCO's evaluation accumulates; -1 marks entries without ground truth.

    Attributes:
        stats: (12,) the summary numbers.
        precision: (T, R, K, A, M) at T IoU thresholds .5:.05:.95, R recalls 0:.01:1, K classes, A areas (all,
            small, medium, large), M limits of detections per image (1, 10, max_detections).
        recall: (T, K, A, M).
        max_detections: the largest of the limits.
    """

    stats: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    max_detections: int


def resolve_engine(engine: Engine) -> Engine:
    """Resolve "auto"; refuse an engine that is unknown or not installed."""
    installed = importlib.util.find_spec("faster_coco_eval") is not None
    if engine == "auto":
        return "faster-coco-eval" if installed else "pycocotools"
    if engine not in get_args(Engine):
        raise UserError(f"engine={engine!r}: allowed are {', '.join(get_args(Engine))}")
    if engine == "faster-coco-eval" and not installed:
        raise UserError("engine='faster-coco-eval' is not installed: `pip install faster-coco-eval`, or engine='auto'")
    return engine


def with_ids(detections: Sequence[CocoDetection]) -> list[dict[str, Any]]:
    """Detections as the engines want them: with ids from 1 and areas."""
    return [
        {**d, "id": i, "area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0} for i, d in enumerate(detections, start=1)
    ]


def build_index(index: Callable[[], Any], truth: GroundTruth, annotations: Sequence[Mapping[str, Any]]) -> Any:
    """An engine's index of some boxes, in the images and classes of ``truth``. It prints what it does.

    Args:
        index: makes an empty one: ``pycocotools.coco.COCO`` or its faster twin.
        truth: images and classes.
        annotations: the boxes; copied, because the engines write into them.
    """
    side = index()
    side.dataset = {
        "images": [{"id": image_id} for image_id in truth.image_ids],
        "categories": [{"id": key, "name": name} for key, name in truth.category_names.items()],
        "annotations": [dict(a) for a in annotations],
    }
    side.createIndex()
    return side


def accumulate(
    truth: GroundTruth,
    detections: Sequence[CocoDetection],
    category_ids: Sequence[int],
    engine: Engine,
    max_detections: int = 100,
) -> Accumulated:
    """Match detections with the truth and accumulate, over all images of ``truth``.

    Args:
        truth: images, classes, boxes.
        detections: COCO's results.
        category_ids: the classes that count, in the order of axis K; must be ascending.
        engine: which program.
        max_detections: detections of an image and class that count, the most certain ones; COCO's are 100.
    """
    if resolve_engine(engine) == "pycocotools":
        index, evaluation, options = COCO, COCOeval, {}
    else:
        import faster_coco_eval

        index, evaluation = faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster
        options = {"print_function": lambda *_: None}
    with contextlib.redirect_stdout(io.StringIO()):  # both narrate every step
        sides = [build_index(index, truth, annotations) for annotations in (truth.annotations, with_ids(detections))]
        run = evaluation(*sides, iouType="bbox", **options)
        run.params.imgIds = list(truth.image_ids)
        run.params.catIds = list(category_ids)
        run.params.maxDets = [1, 10, max_detections]
        run.evaluate()
        run.accumulate()
    precision, recall = (np.asarray(run.eval[name], dtype=np.float64) for name in ("precision", "recall"))
    return Accumulated(_summary(precision, recall), precision, recall, max_detections)


def _summary(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """COCO's 12 numbers; its own summary knows no limit of detections but 100."""
    parts = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]
    parts += [precision[..., area, -1] for area in (1, 2, 3)]
    parts += [recall[..., 0, limit] for limit in (0, 1, 2)] + [recall[..., area, -1] for area in (1, 2, 3)]
    return np.array([mean_known(part) for part in parts])


def mean_known(values: NDArray[np.float64]) -> float:
    """Mean of the entries with ground truth, -1 if there is none."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0
