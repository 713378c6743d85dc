"""What threads and their way of waiting cost a training step on a crowded CPU.

python -m benchmarks.bench_threads                       # alone, and beside three busy processes
python -m benchmarks.bench_threads --busy 0 8 --rounds 3

Each number is the median over the rounds of the seconds of a step (forward, backward, AdamW) of a small detector, in a
process of its own for every setting and round; the settings take turns, so that what else the machine does meets all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

THREADS = sorted({1, len(os.sched_getaffinity(0))})
WAITS = ("ACTIVE", "", "PASSIVE")  # OMP_WAIT_POLICY; empty: not set
SETTINGS = [(threads, wait) for threads in THREADS for wait in WAITS if threads > 1 or wait == ""]
BURN = "while True: pass"


def step_seconds(steps: int) -> float:
    """Median seconds of a step in this process."""
    import torch

    from benchmarks.lives import compose_train
    from ifpn.config.build import build_detector

    small = ("backbone.weights=none", "neck.out_channels=32", "image.min_size=[128]", "image.max_size=128")
    cfg = compose_train(["detector=atss", "backbone=resnet18", *small])
    torch.manual_seed(0)
    detector = build_detector(cfg, 8).train()
    optimiser = torch.optim.AdamW(p for p in detector.parameters() if p.requires_grad)
    targets = [{"boxes": torch.tensor([[20.0, 20.0, 90.0, 90.0]]), "labels": torch.tensor([1])}] * 2
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        optimiser.zero_grad()
        torch.stack(list(detector(list(torch.rand(2, 3, 128, 128)), targets).values())).sum().backward()
        optimiser.step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def measure(threads: int, wait: str, steps: int) -> float:
    """The same in a fresh process with this environment."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment.pop("OMP_WAIT_POLICY", None)
    environment |= {"OMP_WAIT_POLICY": wait} if wait else {}
    command = [sys.executable, "-m", "benchmarks.bench_threads", "--one", str(steps)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 3], help="numbers of busy processes beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(step_seconds(options.one))
        return
    print(f"| threads | OMP_WAIT_POLICY | {' | '.join(f'beside {busy}' for busy in options.busy)} |")
    print("|---" * (2 + len(options.busy)) + "|")
    columns = []
    for busy in options.busy:
        burning = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(busy)]
        try:
            rounds = [[measure(*setting, options.steps) for setting in SETTINGS] for _ in range(options.rounds)]
        finally:
            for process in burning:
                process.kill()
        columns.append([statistics.median(seconds) for seconds in zip(*rounds, strict=True)])
    for i, (threads, wait) in enumerate(SETTINGS):
        print(f"| {threads} | {wait or 'not set'} | {' | '.join(f'{column[i]:.2f}' for column in columns)} |")


if __name__ == "__main__":
    main()
