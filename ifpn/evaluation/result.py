"""COCO's numbers with their names, as plain values and as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from ifpn.evaluation.engines import Accumulated, mean_known
from ifpn.evaluation.ground_truth import GroundTruth

SUMMARY_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
NOT_MEASURABLE = -1.0  # COCO's number where there is nothing to find
SIZE_BINS = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}  # COCO's areas, pixels
_ALL_AREAS, _MAX_DETECTIONS = 0, -1  # positions on the area and detection-limit axes

_MEANING = {
    "AP": "IoU .50:.05:.95",
    "AP50": "IoU .50",
    "AP75": "IoU .75",
    "APs": "area < 32²",
    "APm": "32² to 96²",
    "APl": "area > 96²",
    "AR1": "1 per image",
    "AR10": "10 per image",
    "AR100": "100 per image",
    "ARs": "small, 100",
    "ARm": "medium, 100",
    "ARl": "large, 100",
}


@dataclass(frozen=True)
class CocoResult:
    """One evaluation. Everywhere, -1 means "no box of that kind in the ground truth", as COCO prints it.

    Attributes:
        summary: the 12 numbers under ``SUMMARY_NAMES``.
        per_class: {class name: {"AP", "AP50", "AR100", "boxes"}}; boxes counts the ground truth without crowd
            regions.
        per_size: {"small" | "medium" | "large": {"AP", "AP50", "AR100", "boxes"}}.
        precision: (T, R, K) precision at IoU thresholds .5:.05:.95, recalls 0:.01:1, per class, for the
            curves.
        max_detections: detections of an image and class that count; COCO's, and those of the name AR100, are 100.
        images: images evaluated. images_total: images in the ground truth; more than ``images`` in a partial
            evaluation.
    """

    summary: dict[str, float]
    per_class: dict[str, dict[str, float]]
    per_size: dict[str, dict[str, float]]
    precision: NDArray[np.float64]
    max_detections: int
    images: int
    images_total: int

    @classmethod
    def from_accumulated(
        cls, found: Accumulated, truth: GroundTruth, category_ids: Sequence[int], images_total: int
    ) -> CocoResult:
        """Name the numbers; ``category_ids`` is the order of the class axis."""
        wanted = frozenset(category_ids)
        real = [a for a in truth.annotations if not a["iscrowd"] and a["category_id"] in wanted]
        boxes = Counter(a["category_id"] for a in real)
        per_class = {
            name: {
                **_numbers(found, (k, _ALL_AREAS)),
                "boxes": boxes[category_id],
            }
            for k, (category_id, name) in enumerate(_unique_names(truth, category_ids))
        }
        per_size = {
            name: {
                **_numbers(found, (slice(None), 1 + i)),
                # both ends belong to the bin, as in COCO's evaluation
                "boxes": sum(low <= a["area"] <= high for a in real),
            }
            for i, (name, (low, high)) in enumerate(SIZE_BINS.items())
        }
        return cls(
            summary=dict(zip(SUMMARY_NAMES, found.stats.tolist(), strict=True)),
            per_class=per_class,
            per_size=per_size,
            precision=found.precision[:, :, :, _ALL_AREAS, _MAX_DETECTIONS],
            max_detections=found.max_detections,
            images=len(truth.image_ids),
            images_total=images_total,
        )

    def tables(self, class_names: Sequence[str] | None = None) -> list[Table]:
        """The 12 numbers, then AP by size and per class (names in label order), for ``rich``'s console."""
        coverage = f"{self.images} images"
        if self.images != self.images_total:
            coverage = f"only {self.images} of {self.images_total} images"
        numbers = Table(title=f"COCO box AP on {coverage}", title_justify="left")
        for name in ("precision", "", "measured at", "recall", "", "allowing"):
            numbers.add_column(name, justify="left" if name else "right")
        for left, right in zip(SUMMARY_NAMES[:6], SUMMARY_NAMES[6:], strict=True):
            cells: list[str] = []
            for name in (left, right):
                meaning = _MEANING[name].replace("100", str(self.max_detections))
                cells += [f"[bold]{name}[/]", format_score(self.summary[name]), meaning]
            numbers.add_row(*cells)
        names = list(self.per_class) if class_names is None else class_names
        return [numbers, _breakdown("size", SIZE_BINS, self.per_size), _breakdown("class", names, self.per_class)]


def _breakdown(kind: str, names: Iterable[str], rows: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=f"per {kind}", title_justify="left")
    table.add_column(kind)
    for column in ("boxes", "AP", "AP50", "AR100"):
        table.add_column(column, justify="right")
    for name, row in zip(names, rows.values(), strict=True):
        # a class may be called "[red]": its name is no markup
        table.add_row(Text(name), str(int(row["boxes"])), *(format_score(row[key]) for key in ("AP", "AP50", "AR100")))
    return table


def format_score(value: float) -> str:
    """A number of the summary for people; a dash where there was nothing to find."""
    return "-" if value == -1 else f"{value:.3f}"


def _numbers(found: Accumulated, place: tuple[int | slice, int]) -> dict[str, float]:
    precision = found.precision[:, :, place[0], place[1], _MAX_DETECTIONS]
    recall = found.recall[:, place[0], place[1], _MAX_DETECTIONS]
    return {"AP": mean_known(precision), "AP50": mean_known(precision[0]), "AR100": mean_known(recall)}


def _unique_names(truth: GroundTruth, category_ids: Sequence[int]) -> list[tuple[int, str]]:
    names = [truth.category_names[category_id] for category_id in category_ids]
    return [
        (category_id, name if names.count(name) == 1 else f"{name} (id {category_id})")
        for category_id, name in zip(category_ids, names, strict=True)
    ]
