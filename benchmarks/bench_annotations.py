"""COCO-sized annotations: time and memory of reading them, and memory of loader workers over many batches.

    python -m benchmarks.bench_annotations [--images 118287] [--boxes 860001] [--batches 2000] [--workers 2]

Writes a JSON of that size (outlines of objects included, as in COCO's) and one small picture into a temporary folder,
reads the JSON in a process of its own, then takes batches of 16 and prints the memory that the workers hold for
themselves. Needs about 1 GB of disk, Linux for the memory of workers, and some minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ifpn.data import CocoAnnotations, DefectPolicy, DetectionData, load_annotations

SIDE = 64  # of the one picture that all images share, so that annotations are measured and not pictures
BATCH = 16


def write_set(root: Path, images: int, boxes: int) -> Path:
    """A COCO-format folder with that many images and boxes, 80 classes."""
    draw = random.Random(0)
    (root / "annotations").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for folder in ("train2017", "val2017"):
        (root / folder).mkdir()
        Image.fromarray(pixels).save(root / folder / "one.jpg")
    for split, count, number in (("train", images, boxes), ("val", 2, 2)):
        entries = [{"id": i, "file_name": "one.jpg", "width": SIDE, "height": SIDE} for i in range(count)]
        classes = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
        with (root / f"annotations/instances_{split}2017.json").open("w") as file:
            file.write(f'{{"images": {json.dumps(entries)}, "categories": {json.dumps(classes)}, "annotations": [')
            for n in range(number):
                outline = [round(draw.uniform(0, SIDE), 2) for _ in range(2 * draw.randint(10, 40))]
                annotation = {
                    "id": n + 1,
                    "image_id": n % count,
                    "category_id": n % 80 + 1,
                    "bbox": [round(draw.uniform(0, 30), 2) for _ in range(2)] + [20.5, 30.25],
                    "area": 620.1,
                    "iscrowd": 0,
                    "segmentation": [outline],
                }
                file.write((", " if n else "") + json.dumps(annotation))
            file.write("]}")
    return root / "annotations/instances_train2017.json"


def _read(path: Path, results: mp.Queue[tuple[float, float, int]]) -> None:
    begun = time.perf_counter()
    found: CocoAnnotations = load_annotations(path, policy=DefectPolicy())
    seconds = time.perf_counter() - begun
    results.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, len(found.label)))


def private_megabytes(process: int) -> float:
    """Memory that a process shares with no other."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


def take_batches(root: Path, batches: int, workers: int) -> None:
    """Print what the workers hold, at ten places over the batches."""
    data = DetectionData(root, batch_size=BATCH, seed=0, workers=workers, check=False)
    loader = iter(data.train_dataloader())
    for k in range(batches):
        next(loader)
        if k % max(1, batches // 10) == 0 or k == batches - 1:
            own = [private_megabytes(child.pid) for child in mp.active_children() if child.pid]
            print(f"batch {k:>6}: workers' own memory {', '.join(f'{v:.0f}' for v in own)} MB", flush=True)


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(description="ImageReading COCO-sized annotations.")
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        path = write_set(root, arguments.images, arguments.boxes)
        context = mp.get_context("spawn")  # a fresh process: its peak memory is that of reading alone
        results = context.Queue()
        process = context.Process(target=_read, args=(path, results))
        process.start()
        seconds, gigabytes, boxes = results.get()
        process.join()
        size = path.stat().st_size / 1e6
        print(
            f"{arguments.images} images, {boxes} boxes, {size:.0f} MB: {seconds:.1f} s, {gigabytes:.2f} GB at the peak"
        )
        take_batches(root, arguments.batches, arguments.workers)


if __name__ == "__main__":
    main()
