"""COCO result files: writing ours, reading anybody's, and the zip the evaluation server accepts."""

from __future__ import annotations

import json
import logging
import math
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ifpn.data.coco.defects import DataError
from ifpn.data.coco.stream import read_json
from ifpn.data.coco.values import as_box, as_number, as_whole
from ifpn.errors import UserError
from ifpn.evaluation.doubts import doubts
from ifpn.evaluation.ground_truth import CocoDetection, GroundTruth

TEST_SET = "test-dev2017"  # the server's name of the set that papers report
_SERVER_DECIMALS = 2  # of a pixel; COCO advises one, to keep uploads small
_SCORE_DECIMALS = 6
log = logging.getLogger(__name__)


class PredictionError(UserError):
    """A prediction file that cannot be scored; the message names the entries and values."""


class KnownIds(Protocol):
    """What a prediction may refer to; an evaluator or a ground truth."""

    @property
    def image_ids(self) -> Collection[int]:
        """Images of the split."""
        ...

    @property
    def category_names(self) -> Mapping[int, str]:
        """Names of the categories by id."""
        ...


def write_predictions(records: Sequence[CocoDetection], path: str | Path) -> Path:
    """Write COCO's result list; numbers keep all digits, so that scoring the file gives the very same AP."""
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(list(records)) + "\n", encoding="utf-8")
    return target


def read_predictions(path: str | Path, known: KnownIds | None = None) -> list[CocoDetection]:
    """Read and check a COCO result file: a list of entries, or an object with that list under "annotations".

    A file that is not what it seems (corners, coordinates in 0..1, classes in another order) is returned as it is, and
    named in one line of the log.

    Args:
        path: the file. Further fields of an entry (e.g. "segmentation", "id") are ignored.
        known: the data set it belongs to; None skips the check of ids.

    Raises:
        PredictionError: names the file, the first faulty entries and their number.
    """
    file = Path(path).expanduser()
    try:
        content = read_json(file)
    except DataError as error:
        raise PredictionError(f"prediction file {error}") from error
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise PredictionError(
            f"prediction file {file} holds no list of detections; expected "
            '[{"image_id": 1, "category_id": 1, "bbox": [x, y, width, height], "score": 0.5}, ...]'
        )
    records = checked_predictions(entries, known, source=str(file))
    truth = getattr(known, "ground_truth", known)
    if isinstance(truth, GroundTruth):
        for line in doubts(records, truth, content if isinstance(content, dict) else {}):
            log.warning("%s: %s. Scored as it is", file, line)
    return records


def checked_predictions(entries: Iterable[Any], known: KnownIds | None, *, source: str) -> list[CocoDetection]:
    """Check entries (see `read_predictions`) and keep the four fields that count."""
    images = None if known is None else frozenset(known.image_ids)
    categories = None if known is None else frozenset(known.category_names)
    good: list[CocoDetection] = []
    faults: list[str] = []
    for i, entry in enumerate(entries):
        found = _read(entry, images, categories)
        if isinstance(found, str):
            faults.append(f"entry {i}: {found}")
        else:
            good.append(found)
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise PredictionError(f"{source}: {len(faults)} faulty entries: {'; '.join(faults[:3])}{more}")
    return good


def _read(entry: Any, images: frozenset[int] | None, categories: frozenset[int] | None) -> CocoDetection | str:
    """The detection, or what is wrong with the entry."""
    if not isinstance(entry, dict):
        return f"{_short(entry)} is not an object"
    missing = [key for key in CocoDetection.__annotations__ if key not in entry]
    if missing:
        return f"no {', '.join(missing)} (it has {', '.join(map(str, entry)) or 'nothing'})"
    image, category = (v if type(v := entry[k]) is int else as_whole(v) for k in ("image_id", "category_id"))
    for key, value, allowed in (("image_id", image, images), ("category_id", category, categories)):
        if value is None:
            return f"{key}={_short(entry[key])} is not a whole number"
        if allowed is not None and value not in allowed:
            return f"{key}={value} is not in the data set" + (
                f", which has {sorted(allowed)}" if len(allowed) <= 100 and key == "category_id" else ""
            )
    box, score = as_box(entry["bbox"]), as_number(entry["score"])
    if box is None or not all(map(math.isfinite, box)):
        return f"bbox={_short(entry['bbox'])} is not [x, y, width, height] in finite numbers"
    if box[2] < 0 or box[3] < 0:
        return f"bbox={_short(entry['bbox'])} has a negative width or height (boxes are [x, y, width, height])"
    if score is None or not math.isfinite(score):
        return f"score={_short(entry['score'])} is not a finite number"
    assert image is not None
    assert category is not None
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def submission_name(algorithm: str, split: str = TEST_SET) -> str:
    """The file name that the server prescribes, without its ending.

    Raises:
        PredictionError: a name with other characters than letters, digits and hyphens.
    """
    for name, value in (("algorithm", algorithm), ("split", split)):
        if not re.fullmatch(r"[A-Za-z0-9-]+", str(value)):
            raise PredictionError(
                f"{name}={value!r}: letters, digits and hyphens are allowed (the server splits the name at underscores)"
            )
    return f"detections_{split}_{algorithm}_results"


def write_submission(
    records: Sequence[CocoDetection], folder: str | Path, *, algorithm: str, split: str = TEST_SET
) -> Path:
    """Write the zip that COCO's evaluation server accepts: one JSON with the name the server prescribes.

    Args:
        records: the predictions of the whole test set.
        folder: where ``detections_{split}_{algorithm}_results.zip`` goes.
        algorithm: your entry's name: letters, digits, hyphens (the server splits the file name at
            underscores).
        split: the server's name of the test set.

    Boxes are rounded to 0.01 pixel and scores to 1e-6, for the size of the upload.
    """
    stem = submission_name(algorithm, split)
    target = Path(folder).expanduser() / f"{stem}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    short = [
        {
            **record,
            "bbox": [round(value, _SERVER_DECIMALS) for value in record["bbox"]],
            "score": round(record["score"], _SCORE_DECIMALS),
        }
        for record in records
    ]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{stem}.json", json.dumps(short, separators=(",", ":")))
    return target
