"""Are the 12 numbers COCO's? Scores one prediction file with ifpn, by both engines, and with plain pycocotools.

    python scripts/compare_pycocotools.py ANNOTATIONS.json PREDICTIONS.json

pycocotools is used as its own demo does, on the files as they are; ifpn reads them through its checks. Prints the
numbers side by side and ends with status 1 if any two differ by more than 1e-9.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ifpn.data.coco.stream import read_json
from ifpn.errors import UserError
from ifpn.evaluation import SUMMARY_NAMES, CocoEvaluator, GroundTruth, read_predictions
from ifpn.evaluation.engines import Engine

TOLERANCE = 1e-9  # the same sums in another order: about 1e-15
ENGINES: tuple[Engine, ...] = ("faster-coco-eval", "pycocotools")


def by_pycocotools(annotations: Path, predictions: Path) -> list[float]:
    """The 12 numbers by pycocotools alone."""
    content = read_json(predictions)
    entries = content["annotations"] if isinstance(content, dict) else content
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = read_json(annotations)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(entries), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def by_ifpn(annotations: Path, predictions: Path, engine: Engine) -> list[float]:
    """The 12 numbers by ifpn."""
    truth = GroundTruth.load(annotations)
    evaluator = CocoEvaluator(truth, sorted(truth.category_names), engine)
    evaluator.update_records(read_predictions(predictions, evaluator))
    summary = evaluator.compute().summary
    return [summary[name] for name in SUMMARY_NAMES]


def main() -> int:
    """Read the command line, score with both, and print the differences."""
    parser = argparse.ArgumentParser(description="The 12 numbers by ifpn and by pycocotools.")
    parser.add_argument("annotations", type=Path)
    parser.add_argument("predictions", type=Path)
    arguments = parser.parse_args()
    try:
        ours = {engine: by_ifpn(arguments.annotations, arguments.predictions, engine) for engine in ENGINES}
    except UserError as error:
        sys.exit(f"error: {error}")
    try:
        reference = by_pycocotools(arguments.annotations, arguments.predictions)
    except Exception as error:  # whatever a file that is not quite COCO's raises in it
        sys.exit(f"error: pycocotools cannot use these files as they are: {type(error).__name__}: {error}")
    heads = "".join(f"{'ifpn, ' + engine:>25}" for engine in ENGINES)
    print(f"{'':<8}{'pycocotools alone':>19}{heads}")
    for i, name in enumerate(SUMMARY_NAMES):
        cells = "".join(f"{ours[engine][i]:>25.12f}" for engine in ENGINES)
        print(f"{name:<8}{reference[i]:>19.12f}{cells}")
    worst = max(abs(a - b) for numbers in ours.values() for a, b in zip(numbers, reference, strict=True))
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:g}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
