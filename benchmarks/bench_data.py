"""How many images per second the training loader gives, with 0, 1 and 2 worker processes.

    python -m benchmarks.bench_data ROOT [--batch-size 8] [--seconds 5] [--workers 0 1 2] [--step SECONDS]
    python -m benchmarks.bench_data ROOT --run runs/…

With the seconds of a training step, given or read from the result.json of a run, it also prints how many times faster
the loader is than the training, and says whether a step waits for data.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ifpn.data import DetectionData


def images_per_second(root: Path, batch_size: int, workers: int, seconds: float) -> tuple[float, float]:
    """Seconds until the first batch, and images per second after it over about `seconds` seconds."""
    data = DetectionData(root, batch_size=batch_size, seed=0, workers=workers)
    data.setup("fit")
    begun = time.perf_counter()
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    first = start - begun
    images = 0
    while time.perf_counter() - start < seconds:
        batch = next(batches, None)
        if batch is None:  # the next epoch, with the same workers
            batches = iter(loader)
            continue
        images += len(batch[0])
    return first, images / (time.perf_counter() - start)


def verdict(batch_seconds: dict[int, float], step: float) -> str:
    """One sentence: does a training step of `step` seconds wait for batches that take so long to load?"""
    workers = min(batch_seconds, key=lambda w: (batch_seconds[w], w))
    ratio = step / batch_seconds[workers]
    # without workers loading and training take turns, so that every step waits for its whole batch
    alone = (
        f" (loading in the training process adds {100 * batch_seconds[0] / step:.1f} %)" if 0 in batch_seconds else ""
    )
    answer = "no step waits for data" if ratio > 1 and workers > 0 else "steps wait for data"
    if workers == 0:
        answer = f"loading adds {100 / ratio:.1f} % to each step; workers hide it only if a processor core is free"
        alone = ""
    return (
        f"With data.workers={workers} a batch is ready in {batch_seconds[workers]:.3f} s and a training step takes "
        f"{step:.3f} s: the loader is {ratio:.1f} times faster, {answer}{alone}."
    )


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(description="Throughput of the training loader.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--step", type=float, default=None, help="seconds per training step")
    parser.add_argument("--run", type=Path, default=None, help="a run's folder, for its seconds per step")
    arguments = parser.parse_args()
    step = arguments.step
    if arguments.run is not None:
        step = json.loads((arguments.run / "result.json").read_text())["seconds_per_step"]
    batch_seconds: dict[int, float] = {}
    print(f"{'workers':>8}{'first batch (s)':>17}{'images/s':>10}{'ms per batch':>14}")
    for workers in arguments.workers:
        first, rate = images_per_second(arguments.root, arguments.batch_size, workers, arguments.seconds)
        batch_seconds[workers] = arguments.batch_size / rate
        print(f"{workers:>8}{first:>17.2f}{rate:>10.1f}{1000 * arguments.batch_size / rate:>14.1f}")
    if step is not None:
        print(verdict(batch_seconds, step))


if __name__ == "__main__":
    main()
