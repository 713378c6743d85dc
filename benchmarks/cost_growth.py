"""How cost grows with the image and the batch: an implicit neck beside an FPN.

    python -m benchmarks.cost_growth --sides 256 512 800 1344 --largest 2   # about a quarter of an hour on one core
    python -m benchmarks.cost_growth backbone=resnet50 recipe=paper --sides 256 512 800 1344 --device cuda

Seconds and peak memory are measured, on random weights with fixed budgets (7 evaluations and 5 products in training; 2
and 7 evaluations at test). The bytes of the solver's states are counted: float32, C times the cells of P3 to P7, and
twice the five steps of Anderson's history and four more at the peak. Multiply-adds are counted at 256 px: they grow
with the pixels, so their ratio is the same at every size. Batches of more than `--largest` million pixels are counted
only. Square images. Writes a table, and a picture to --out.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.bench_solver import clock, median
from benchmarks.bench_step import MIB, Peak, build, peak_here
from benchmarks.step_case import composed
from ifpn.plots.style import BLUE, ORANGE, figure
from ifpn.training.cost import multiply_adds

BUDGET = (
    "solver.easy=null solver.hard=null solver.rtol=0 solver.test_rtol=null solver.backward.rtol=0 solver.fit_start=0"
)
FIXED = f"neck=implicit solver=fast {BUDGET}"
CASES = {"FPN": "neck=fpn", "2 at test": f"{FIXED} solver.test_evals=2", "7 at test": f"{FIXED} solver.test_evals=7"}
STATES = 2 * 5 + 4
HEADS = (
    *("side", "batch", "FPN: step, s", "i-FPN / FPN", "inference, s", "2 / FPN", "7 / FPN", "MiB, step", "i-FPN / FPN"),
    "solver's states, MiB",
)
DIGITS = (3, 2, 3, 2, 2, 0, 2, 1)
COUNTED_AT = 256  # px


def state_bytes(side: int, channels: int) -> int:
    """Bytes of one pyramid P3 to P7 of a square image in float32."""
    return 4 * channels * sum((-(-side // stride)) ** 2 for stride in (8, 16, 32, 64, 128))


def seconds(options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """{case: (training step, inference)}, medians of rounds in which the cases take turns."""
    cases = {name: build(overrides, options) for name, overrides in CASES.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(options.rounds + 1):
        for name, case in cases.items():
            times[name].append((clock(case.train, case.device), clock(case.infer, case.device)))
    # The first round warms up.
    return {n: (median([t for t, _ in pairs[1:]]), median([i for _, i in pairs[1:]])) for n, pairs in times.items()}


def counted(options: argparse.Namespace) -> tuple[float, float]:
    """Multiply-adds of an inference with two and with seven evaluations, as ratios to the FPN's."""
    found = []
    for overrides in CASES.values():
        case = build(overrides, at_size(options, COUNTED_AT, 1))
        found.append(multiply_adds(case.detector, (255 * case.images[0]).byte()) or math.nan)
    return found[1] / found[0], found[2] / found[0]


def memory(name: str, options: argparse.Namespace, side: int, batch: int) -> float:
    """Peak MiB of a training step of a case: of a CPU in a fresh process."""
    if options.device == "cuda":
        return peak_here(CASES[name], at_size(options, side, batch)).train
    command = [sys.executable, *sys.orig_argv[1:], "--memory-of", name, "--sides", str(side), "--batches", str(batch)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(answer.split()[-1])


def at_size(options: argparse.Namespace, side: int, batch: int) -> argparse.Namespace:
    """The options of one line of the table."""
    changes = {"height": side, "width": side, "batch": batch, "random": True, "precision": options.precision}
    sizes = [f"image.min_size=[{side}]", f"image.max_size={side}"]
    return argparse.Namespace(**{**vars(options), **changes, "overrides": [*options.overrides, *sizes]})


def main() -> None:
    """Read the command line, measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="as for train.py: backbone=resnet50 recipe=paper")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--largest", type=float, default=4, help="million pixels of a batch; above: counted only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--out", type=Path, default=Path("cost_growth.png"))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of is not None:
        found: Peak = peak_here(CASES[options.memory_of], at_size(options, options.sides[0], options.batches[0]))
        print(found.train)
        return
    two, seven = counted(options)
    print(f"multiply-adds of an inference, i-FPN / FPN: two evaluations {two:.2f}, seven {seven:.2f}\n")
    print("| " + " | ".join(HEADS) + " |")
    print("|---" * len(HEADS) + "|")
    ratios = []
    for side in options.sides:
        for batch in options.batches:
            numbers = line(options, side, batch)
            cells = ["" if n is None else f"{n:.{digits}f}" for n, digits in zip(numbers, DIGITS, strict=True)]
            print("| " + " | ".join([str(side), str(batch), *cells]) + " |", flush=True)
            if numbers[1] is not None and numbers[3] is not None:
                ratios.append((side, batch, numbers[1], numbers[3]))
    draw(ratios, two, options.out)


def line(options: argparse.Namespace, side: int, batch: int) -> list[float | None]:
    """One line of the table: seconds, MiB and their ratios, and the counted bytes."""
    here = at_size(options, side, batch)
    states = batch * STATES * state_bytes(side, composed(here.overrides).neck.out_channels) / MIB
    if side * side * batch > 1e6 * options.largest:
        return [*[None] * (len(DIGITS) - 1), states]
    times = seconds(here)
    fpn, two, seven = (times[name] for name in CASES)
    held = [memory(name, options, side, batch) for name in ("FPN", "7 at test")]
    ratios = fpn[0], seven[0] / fpn[0], fpn[1], two[1] / fpn[1], seven[1] / fpn[1]
    return [*ratios, held[0], held[1] / held[0], states]


def draw(ratios: list[tuple[int, int, float, float]], floor: float, path: Path) -> None:
    """Ratios to the FPN against the pixels of a batch; that of the multiply-adds of two evaluations as a line."""
    with figure(8, 4.6, path) as drawing:
        axes = drawing.subplots()
        pixels = [side * side * batch / 1e6 for side, batch, _, _ in ratios]
        axes.plot(pixels, [r[2] for r in ratios], "o", color=BLUE, label="training step, 7 evaluations and 5 products")
        axes.plot(pixels, [r[3] for r in ratios], "o", color=ORANGE, label="inference, 2 evaluations")
        axes.axhline(floor, color=ORANGE, linewidth=1, linestyle="--", label="its multiply-adds")
        axes.set_xscale("log")
        axes.set_ylim(1, None)
        axes.set_xlabel("million pixels in a batch")
        axes.set_ylabel("i-FPN / FPN")
        axes.legend()


if __name__ == "__main__":
    main()
