"""How sure is an AP, and a difference of two? The validation images drawn again, with replacement."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ifpn.evaluation.engines import build_index, with_ids
from ifpn.evaluation.ground_truth import CocoDetection, GroundTruth

Floats = NDArray[np.float64]

_RECALLS = np.linspace(0.0, 1.0, 101)
_MAX_DETECTIONS = 100


@dataclass(frozen=True)
class _ClassMatches:
    """Detections of one class, the most certain first, matched at T thresholds of IoU.

    hits, misses: (T, D), 0 or 1; both 0 where COCO ignores the detection. image: (D,) position of its image.
    scores: (D,), falling.
    truths: (I,) boxes to be found per image.
    found: positions of the hits at each threshold.
    counted: (T, D), or (1, D) where it is the same at all thresholds: 0 where COCO ignores the detection.
    """

    hits: Floats
    misses: Floats
    image: NDArray[np.int64]
    truths: Floats
    scores: Floats
    found: tuple[NDArray[np.int64], ...] = field(init=False)
    counted: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Precision and recall change at hits alone, and nearly always the same detections count at every threshold."""
        object.__setattr__(self, "found", tuple(np.flatnonzero(row) for row in self.hits))
        counted = self.hits + self.misses
        object.__setattr__(self, "counted", counted[:1] if (counted == counted[:1]).all() else counted)


class ScoredMatches:
    """Detections matched once with the truth; :meth:`ap` then takes any weights of the images.

    Args:
        truth: images, classes, boxes.
        detections: COCO's results; at most 100 per image and class count, as in COCO's AP.
    """

    def __init__(self, truth: GroundTruth, detections: Sequence[CocoDetection]) -> None:
        self.num_images = len(truth.image_ids)
        with contextlib.redirect_stdout(io.StringIO()):  # it narrates every step
            run = COCOeval(
                *(build_index(COCO, truth, boxes) for boxes in (truth.annotations, with_ids(detections))), "bbox"
            )
            run.params.imgIds = list(truth.image_ids)
            run.params.catIds = sorted(truth.category_names)
            run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
            run.params.maxDets = [_MAX_DETECTIONS]
            run.evaluate()
        images = [run.evalImgs[k * self.num_images :][: self.num_images] for k in range(len(run.params.catIds))]
        self._classes = [_of_class(found) for found in images]

    def ap(self, weights: Floats | None = None) -> float:
        """COCO's AP over images that each count ``weights`` (I,) times; nan if none of them has a box.

        Whole weights give the AP of a set in which the image occurs that often (exactly, unless an image has two
        detections of the same score).
        """
        counts = np.ones(self.num_images) if weights is None else weights
        found = [ap for one in self._classes if (ap := _ap(one, counts)) is not None]
        return float(np.mean(found)) if found else float("nan")

    def pooled(self) -> tuple[Floats, Floats, Floats, int]:
        """Scores (D,), hits and misses (D,) at the lowest IoU threshold, of all classes; boxes to be found."""
        parts = self._classes
        columns = [one.scores for one in parts]
        hits, misses = ([getattr(one, name)[0] for one in parts] for name in ("hits", "misses"))
        empty = np.zeros(0)
        joined = [np.concatenate([empty, *values]) for values in (columns, hits, misses)]
        return joined[0], joined[1], joined[2], int(sum(one.truths.sum() for one in parts))


@dataclass(frozen=True)
class Difference:
    """AP of ``a`` less AP of ``b`` on the same images.

    Attributes:
        a, b: the two APs.
        error: standard deviation of the difference over the resamples.
        low, high: the middle 95 % of it.
    """

    a: float
    b: float
    error: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """The AP of `a` less that of `b`."""
        return self.a - self.b


def paired_bootstrap(a: ScoredMatches, b: ScoredMatches, resamples: int = 1000, seed: int = 0) -> Difference:
    """Compare two detectors on resamples of their validation images, the same resamples for both.

    What it tells is how much the choice of validation images matters. Another training of the same detector,
    with another seed, moves the AP as well, and that is not in it.

    Args:
        a: matches of one detector.
        b: of the other, with the same truth.
        resamples: number of resamples.
        seed: of the resamples.

    Raises:
        ValueError: different numbers of images, no boxes to be found, or fewer than two resamples.
    """
    if a.num_images != b.num_images:
        raise ValueError(f"the two were matched with {a.num_images} and {b.num_images} images: give the same truth")
    if resamples < 2:
        raise ValueError(f"resamples={resamples}: at least 2 are needed for a spread")
    if np.isnan(a.ap()):
        raise ValueError("the annotations hold no box to be found, so there is no AP to compare")
    gaps = resampled_ap(a, resamples, seed) - resampled_ap(b, resamples, seed)
    # A draw may hold no box at all where few images have one: it says nothing.
    low, high = np.nanquantile(gaps, [0.025, 0.975])
    return Difference(a.ap(), b.ap(), float(np.nanstd(gaps, ddof=1)), float(low), float(high))


def resampled_ap(matches: ScoredMatches, resamples: int, seed: int = 0) -> Floats:
    """AP on each resample of the images (resamples,); one seed draws the same for all detectors on the same images.

    nan where a resample holds no box.
    """
    draw = np.random.default_rng(seed)
    share = np.full(matches.num_images, 1 / matches.num_images)
    draws = (draw.multinomial(matches.num_images, share) for _ in range(resamples))
    return np.array([matches.ap(counts.astype(np.float64)) for counts in draws])


def _of_class(images: Sequence[dict[str, NDArray[np.float64]] | None]) -> _ClassMatches:
    """COCO's matches of one class; None is an image without a box and without a detection."""
    found = [(i, one) for i, one in enumerate(images) if one is not None]
    truths = np.zeros(len(images))
    for i, one in found:
        truths[i] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
    if not found:
        nothing = np.zeros((1, 0))
        return _ClassMatches(nothing, nothing, np.zeros(0, dtype=np.int64), truths, np.zeros(0))
    scores = np.concatenate([np.asarray(one["dtScores"], dtype=np.float64) for _, one in found])
    image = np.concatenate([np.full(len(one["dtScores"]), i) for i, one in found])
    order = np.argsort(-scores, kind="mergesort")  # COCO's own, for the order of equal scores
    matched = np.concatenate([one["dtMatches"] for _, one in found], axis=1)[:, order] > 0
    counted = np.concatenate([one["dtIgnore"] for _, one in found], axis=1)[:, order] == 0
    hits, misses = (matched & counted) * 1.0, (~matched & counted) * 1.0
    return _ClassMatches(hits, misses, image[order], truths, scores[order])


def _ap(one: _ClassMatches, weights: Floats) -> float | None:
    """Mean over thresholds and 101 recalls; None without boxes to be found."""
    truths = float(weights @ one.truths)
    if truths == 0:
        return None
    each = weights[one.image]
    totals = np.broadcast_to(np.cumsum(one.counted * each, axis=1), one.hits.shape)
    values = []
    for positions, total in zip(one.found, totals, strict=True):
        hits = np.cumsum(each[positions])
        precision = hits / np.maximum(total[positions], np.spacing(1.0))
        # The best precision at this recall or a higher one; 0 at a recall that is never reached.
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        values.append(best[np.searchsorted(hits / truths, _RECALLS, side="left")])
    return float(np.mean(values))
