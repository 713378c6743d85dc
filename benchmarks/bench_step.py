r"""A training step and an inference of whole detectors, interleaved: an implicit neck beside an FPN.

    python -m benchmarks.bench_step --run RUN_FPN --run RUN_IFPN --run "RUN_IFPN solver.test_evals=2"
    python -m benchmarks.bench_step --random --device cuda --precision bf16 --height 800 --width 1333 \\
        backbone=resnet50 recipe=paper
    python -m benchmarks.bench_step --random --case "neck=fpn" --case "solver=fast neck.compile=true"

`--run` names a run (its best.ckpt) or a checkpoint, with another solver if one follows, and measures it on its own
validation images. With random weights a solver that stops at a tolerance makes as many evaluations as an untrained G
needs, which says nothing of a trained one: `--random` is for memory, and for solvers of a fixed budget.

All cases live in one process and take turns, so a slow moment of the machine hits all alike; the table shows
medians and their ratios to the first case. Memory is the peak beyond what was held before the network is built: on a
CPU in a fresh process per case, on a GPU in this one, where every tensor is counted.

The solver's share is the time inside it that is not spent in G or in products with its Jacobian. On a GPU each part
is waited for to measure it, which makes the share an upper bound.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench_solver import clock, median
from benchmarks.step_case import Case, random_case, trained_case

CASES = ["neck=fpn", "neck=implicit solver=broyden", "neck=implicit solver=fast"]
MIB = 2**20


class SolverClock:
    """Seconds inside the solver, and of them those in the function it was given."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.inside = self.given = 0.0

    def around(self, solver: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a solver so that the time inside the function it is given is counted apart."""

        def timed(function: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
            def call(z: Tensor) -> Tensor:
                out: list[Tensor] = []
                self.given += clock(lambda: out.append(function(z)), self.device)
                return out[0]

            out: list[Any] = []
            self.inside += clock(lambda: out.append(solver(call, *args, **kwargs)), self.device)
            return out[0]

        return timed


def share(case: Case, rounds: int) -> float:
    """The solver's own share of a training step's time, median of some rounds."""
    module = importlib.import_module("ifpn.solvers.fixed_point")  # the package's attribute of this name is a function
    plain = {name: getattr(module, name) for name in ("search", "solve_adjoint")}
    shares = []
    try:
        for _ in range(rounds):
            watch = SolverClock(case.device)
            for name, function in plain.items():
                setattr(module, name, watch.around(function))
            whole = clock(case.train, case.device)
            shares.append((watch.inside - watch.given) / whole)
    finally:
        for name, function in plain.items():
            setattr(module, name, function)
    return median(shares)


@dataclass
class Peak:
    """MiB of an inference, and of a training step after it."""

    infer: float
    train: float


def peak_now(device: str) -> float:
    """Most MiB that this process has held so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    # Elsewhere; on Linux this number would start from the parent's.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def peak_here(name: str, options: argparse.Namespace) -> Peak:
    """Peak memory of one case in this process, which must be fresh if it is a CPU's."""
    if options.device == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()  # to what is held now
    before = peak_now(options.device)
    case = build(name, options)
    case.infer()
    infer = peak_now(options.device) - before
    for _ in range(2):  # the optimiser's state is there from the second step on
        case.train()
    return Peak(infer, peak_now(options.device) - before)


def peak(name: str, options: argparse.Namespace) -> Peak:
    """The same of any process: on a CPU in a fresh one, with the command line of this one."""
    if options.device == "cuda":
        return peak_here(name, options)
    command = [sys.executable, *sys.orig_argv[1:], "--memory-of", name]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Peak(**json.loads(answer.splitlines()[-1]))


def build(name: str, options: argparse.Namespace) -> Case:
    """The case of this name: overrides, or a run and overrides of its solver."""
    first, *rest = name.split()
    return (
        random_case([*options.overrides, *name.split()], options)
        if options.random
        else trained_case(first, rest, options)
    )


def table(names: list[str], options: argparse.Namespace) -> str:
    """Measure all cases; a Markdown table."""
    cases = {name: build(name, options) for name in names}
    times: dict[tuple[str, str], list[float]] = {(name, what): [] for name in names for what in ("train", "infer")}
    for r in range(options.rounds + 1):
        for name, case in cases.items():
            case.restore()
            case.infer()  # folds the weights that were just restored, as the first image of many does
            seconds = {"infer": clock(case.infer, case.device), "train": clock(case.train, case.device)}
            if r > 0:  # the first round warms up
                for what, value in seconds.items():
                    times[name, what].append(value)
    heads = ["case", "training step, s", "ratio", "inference, s", "ratio", "memory, training, MiB", "ratio"]
    heads += [
        "memory, inference, MiB",
        "ratio",
        "evaluations, products",
        "evaluations at test",
        "rho",
        "solver's share",
    ]
    lines = [heads, ["---"] * len(heads)]
    first: list[float] = []
    for name, case in cases.items():
        memory = peak(name, options)
        values = [median(times[name, "train"]), median(times[name, "infer"]), memory.train, memory.infer]
        first = first or values
        shown = [f"{v:.3f}" for v in values[:2]] + [f"{v:.0f}" for v in values[2:]]
        cells = [cell for v, a, text in zip(values, first, shown, strict=True) for cell in (text, f"{v / a:.2f}")]
        own = share(case, options.rounds)  # ends with a training step, which `spent` speaks of
        spent = case.spent()
        case.restore()
        case.infer()
        lines.append([f"`{name}`", *cells, spent, case.test_evals(), case.radius(), f"{100 * own:.1f} %"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", dest="cases", help="a trained run; the first is the unit")
    parser.add_argument("--random", action="store_true", help="random weights and images")
    parser.add_argument("overrides", nargs="*", help="of all random cases, as for train.py: recipe=paper")
    parser.add_argument("--case", action="append", dest="cases", help="overrides of one random case")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument(
        "--size", type=int, help="shorter side of a trained run's images; as it was trained if not given"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of is not None:
        print(json.dumps(vars(peak_here(options.memory_of, options))))
        return
    if not options.random and not options.cases:
        parser.error("name trained runs, --run RUN; or say --random for random weights, on which no search stops early")
    names = options.cases or CASES
    print(
        f"{options.batch} images, network input {build(names[0], options).input_size()}, {options.precision}, "
        f"{options.device}, {options.threads} thread(s), "
        f"{'random weights ' if options.random else 'trained weights '}{' '.join(options.overrides)}\n"
    )
    print(table(names, options))


if __name__ == "__main__":
    main()
