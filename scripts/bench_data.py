"""How many images per second the training loader gives, with 0, 1 and 2 worker processes.

    python scripts/bench_data.py ROOT [--batch-size 8] [--seconds 5] [--workers 0 1 2]

A training step does not wait for data if images/s is above batch size / seconds per step.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of the training loader.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    print(f"{'workers':>8}{'first batch (s)':>17}{'images/s':>10}{'ms per batch':>14}")
    for workers in arguments.workers:
        first, rate = images_per_second(arguments.root, arguments.batch_size, workers, arguments.seconds)
        print(f"{workers:>8}{first:>17.2f}{rate:>10.1f}{1000 * arguments.batch_size / rate:>14.1f}")


if __name__ == "__main__":
    main()
