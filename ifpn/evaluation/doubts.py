"""Signs that detections are not what they seem: corners, shares of the picture, classes or images under other ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ifpn.data.coco.plausible import doubt
from ifpn.evaluation.confusion import confusion_matrix
from ifpn.evaluation.ground_truth import CocoDetection, GroundTruth

_IMAGES = 500  # whose boxes are matched to see which class is taken for which
_FEW = 4  # matched boxes that say nothing about classes


def doubts(records: Sequence[CocoDetection], truth: GroundTruth, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each sign that a prediction file does not mean what an evaluation takes it for.

    Args:
        records: the detections.
        truth: what they belong to.
        content: the rest of the file: its own lists of categories and images, if it has them.
    """
    boxes = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4)
    sizes = np.array([truth.sizes[record["image_id"]] for record in records], dtype=np.int32).reshape(-1, 2)
    sentence = doubt(boxes, sizes)
    if sentence is not None:
        yield sentence
    yield from _other_ids(content, "categories", "name", truth.category_names)
    yield from _other_ids(content, "images", "file_name", truth.file_names)
    yield from _permuted(records, truth)


def _other_ids(content: Mapping[str, Any], section: str, key: str, names: Mapping[int, str]) -> Iterator[str]:
    """The file's own names of its ids, where the data set calls them something else."""
    entries = content.get(section)
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, Mapping) or entry.get("id") not in names or not isinstance(entry.get(key), str):
            continue
        here, there = entry[key], names[entry["id"]]
        if there and PurePosixPath(here.replace("\\", "/")).name != PurePosixPath(there.replace("\\", "/")).name:
            yield f"its {section} call id {entry['id']} {here!r}, and the annotations {there!r}: the ids are others"
            return


def _permuted(records: Sequence[CocoDetection], truth: GroundTruth) -> Iterator[str]:
    """Classes of which nearly all boxes lie on objects of another one, each of another."""
    known = {image: None for record in records if (image := record["image_id"])}
    some = truth.subset(list(known)[:_IMAGES])
    wanted = frozenset(some.image_ids)
    mine = [record for record in records if record["image_id"] in wanted]
    matrix = confusion_matrix(some, mine, iou_threshold=0.5, score_threshold=-np.inf)
    counts = matrix.counts[:-1, :-1]
    total, right = int(counts.sum()), int(np.trace(counts))
    columns = np.flatnonzero(counts.sum(axis=0))
    meant = counts.argmax(axis=0)[columns]
    fitting = int(counts[meant, columns].sum())
    if total < _FEW or len(set(meant)) < max(2, len(columns)) or right > 0.3 * total or fitting < 0.8 * total:
        return
    pairs = [(k, m) for k, m in zip(columns, meant, strict=True) if k != m]
    names = matrix.class_names
    shown = ", ".join(f"{names[k]!r} on {names[m]!r}" for k, m in pairs[:3])
    whose = f"{right} of {total} boxes on an object have its class"
    yield f"{whose}, {fitting} would if the classes stood in another order ({shown})"
