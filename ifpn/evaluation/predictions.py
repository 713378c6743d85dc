"""COCO result files: writing ours, reading anybody's, and the zip the evaluation server accepts."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

from ifpn.errors import UserError

TEST_SET = "test-dev2017"  # the server's name of the set that papers report
_SERVER_DECIMALS = 2  # of a pixel; COCO advises one, to keep uploads small
_SCORE_DECIMALS = 6


class CocoDetection(TypedDict):
    """One entry of a COCO result file: official ids; bbox is [x, y, width, height] in pixels."""

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


class PredictionError(UserError):
    """A prediction file that cannot be scored; the message names the entries and values."""


class KnownIds(Protocol):
    """What a prediction may refer to; an evaluator or a ground truth."""

    @property
    def image_ids(self) -> Collection[int]: ...
    @property
    def category_names(self) -> Mapping[int, str]: ...


def write_predictions(records: Sequence[CocoDetection], path: str | Path) -> Path:
    """Write COCO's result list; numbers keep all digits, so that scoring the file gives the very same AP."""
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(list(records)) + "\n", encoding="utf-8")
    return target


def read_predictions(path: str | Path, known: KnownIds | None = None) -> list[CocoDetection]:
    """Read and check a COCO result file: a list of entries, or an object with that list under "annotations".

    Args:
        path: the file. Further fields of an entry (e.g. "segmentation", "id") are ignored.
        known: the data set it belongs to; None skips the check of ids.

    Raises:
        PredictionError: names the file, the first faulty entries and their number.
    """
    file = Path(path).expanduser()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PredictionError(f"prediction file {file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise PredictionError(f"prediction file {file} is not valid JSON: {error}") from error
    if isinstance(content, dict):
        content = content.get("annotations")
    if not isinstance(content, list):
        raise PredictionError(
            f"prediction file {file} holds no list of detections; expected "
            '[{"image_id": 1, "category_id": 1, "bbox": [x, y, width, height], "score": 0.5}, ...]'
        )
    return checked_predictions(content, known, source=str(file))


def checked_predictions(entries: Iterable[Any], known: KnownIds | None, *, source: str) -> list[CocoDetection]:
    """Check entries (see :func:`read_predictions`) and keep the four fields that count."""
    images = None if known is None else frozenset(known.image_ids)
    categories = None if known is None else frozenset(known.category_names)
    good: list[CocoDetection] = []
    faults: list[str] = []
    for i, entry in enumerate(entries):
        fault = _fault(entry, images, categories)
        if fault is None:
            box = [float(value) for value in entry["bbox"]]
            good.append(
                {
                    "image_id": entry["image_id"],
                    "category_id": entry["category_id"],
                    "bbox": box,
                    "score": float(entry["score"]),
                }
            )
        else:
            faults.append(f"entry {i}: {fault}")
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise PredictionError(f"{source}: {len(faults)} faulty entries: {'; '.join(faults[:3])}{more}")
    return good


def _fault(entry: Any, images: frozenset[int] | None, categories: frozenset[int] | None) -> str | None:
    if not isinstance(entry, dict):
        return f"{_short(entry)} is not an object"
    missing = [key for key in CocoDetection.__annotations__ if key not in entry]
    if missing:
        return f"no {', '.join(missing)} (it has {', '.join(map(str, entry)) or 'nothing'})"
    for key, allowed in (("image_id", images), ("category_id", categories)):
        value = entry[key]
        if isinstance(value, bool) or not isinstance(value, int):
            return f"{key}={_short(value)} is not a whole number"
        if allowed is not None and value not in allowed:
            return f"{key}={value} is not in the data set" + (
                f", which has {sorted(allowed)}" if len(allowed) <= 100 and key == "category_id" else ""
            )
    box, score = entry["bbox"], entry["score"]
    if not isinstance(box, list) or len(box) != 4 or not all(_finite(value) for value in box):
        return f"bbox={_short(box)} is not [x, y, width, height] in finite numbers"
    if box[2] < 0 or box[3] < 0:
        return f"bbox={_short(box)} has a negative width or height (boxes are [x, y, width, height])"
    if not _finite(score):
        return f"score={_short(score)} is not a finite number"
    return None


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too large for any float
        return False


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
