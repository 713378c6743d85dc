"""Training losses of runs on the same batches, less those of a reference run.

    python scripts/compare_losses.py REFERENCE RUN [RUN ...] [--every 150]

Two runs with one seed, data set and batch size see the same images at the same step, so that the difference of
their losses has not the noise of the batches. It is meaningful between runs of one detector at one learning
rate; other runs are refused. Where only one of two runs logged a loss or a step, it is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ifpn.config.migration import migrate
from ifpn.plots.curves import Curve, read_curves
from reproduce.differences import comparable


def conditions(folder: Path) -> dict[str, object]:
    """What two runs must share to be compared, from the run's result.json.

    Raises:
        ValueError: there is none, as in a run that was not finished.
    """
    file = folder / "result.json"
    try:
        result: dict[str, Any] = json.loads(file.read_text())
        config = migrate(result["config"])
        leaves = comparable(config)
        kept = {k: v for k, v in leaves.items() if k.startswith(("detector.", "schedule.", "image.", "data."))}
        root = config["data"].get("root")
        return {"seed": result["seed"], "batch": result["batch"], "data.root": root and Path(root).name, **kept}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file} is not the result of a finished run: {error!r}") from error


def check_same(reference: Path, other: Path) -> None:
    """Raises ValueError if the runs differ in more than the neck and the backbone."""
    a, b = conditions(reference), conditions(other)
    # A setting that only one of them has is of another version of ifpn: configurations outlive versions.
    differing = [f"{k} ({a[k]} and {b[k]})" for k in sorted(a.keys() & b.keys()) if a[k] != b[k]]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(
            f"the losses of {reference} and {other} cannot be compared: "
            f"they differ in {', '.join(differing[:3])}{more}. Give runs that differ in the neck or backbone alone"
        )


def differences(
    reference: Mapping[str, Curve], other: Mapping[str, Curve], every: int
) -> dict[str, list[tuple[int, float]]]:
    """Per loss: (first step, mean of the other's less the reference's) for each window of `every` steps."""
    found = {}
    for name in sorted(n for n in reference if n.startswith("train/loss") and n in other):
        a, b = reference[name], other[name]
        steps, i, j = np.intersect1d(a.steps, b.steps, return_indices=True)
        gap = b.values[j] - a.values[i]
        starts = sorted({int(s) // every * every for s in steps})
        found[name] = [(s, float(gap[(steps >= s) & (steps < s + every)].mean())) for s in starts]
    return found


def table(found: Mapping[str, Iterable[tuple[int, float]]], every: int) -> str:
    """A line per loss, a column per window."""
    rows = {name.removeprefix("train/"): list(points) for name, points in found.items()}
    if not rows:
        return "no loss that both runs have logged"
    width = max(map(len, rows)) + 2
    heads = "".join(f"{f'{s}-{s + every - 1}':>12}" for s, _ in next(iter(rows.values())))
    lines = [f"{'steps':<{width}}{heads}"]
    lines += [f"{name:<{width}}" + "".join(f"{gap:>+12.3f}" for _, gap in points) for name, points in rows.items()]
    return "\n".join(lines)


def main() -> None:
    """Read the command line and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="folder of the run that the others are compared with")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of the other runs")
    parser.add_argument("--every", type=int, default=150, help="steps per column (default: 150)")
    args = parser.parse_args()
    if args.every < 1:
        parser.error(f"--every must be at least 1, got {args.every}")
    try:
        base = read_curves(args.reference / "metrics.csv")
        for run in args.runs:
            check_same(args.reference, run)
            print(f"{run} less {args.reference}")
            print(table(differences(base, read_curves(run / "metrics.csv"), args.every), args.every))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
