"""Milliseconds per image of an i-FPN detector: PyTorch, compiled, and exported to onnxruntime, beside an FPN.

    python -m benchmarks.export_latency [--evals 1 2 3 7] [--rounds 20] [--threads 2] [--size 640x480] [KEY=VALUE …]

All contestants have random weights, one backbone and one head, and run in one process: a round is one image for each,
in an order that changes; reported are medians, and the median of the ratios to the exported FPN in the same round, so
that other work on the machine weighs on all alike. Compiled: backbone and head (compile=true), and G. More settings of
`ifpn train` change the detector.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from benchmarks.export_agreement import plainly_iterated
from ifpn.config.build import build_detector, compile_parts
from ifpn.config.paths import CONF
from ifpn.export.runtime import OnnxDetector
from ifpn.predictor import Predictor

Run = Callable[[np.ndarray], object]
FPN, ONNX = "FPN", "onnxruntime"


def predictor(overrides: Sequence[str], *, compiled: bool) -> Predictor:
    """A detector with random weights, ready for images (H, W, 3)."""
    words = ["recipe=small", "backbone.weights=none", "run_dir=unused", f"neck.compile={str(compiled).lower()}"]
    if not any(word == "neck=implicit" for word in overrides):
        words.pop()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = OmegaConf.create(OmegaConf.to_container(compose("train", overrides=[*words, *overrides]), resolve=True))
    assert isinstance(cfg, DictConfig)
    torch.manual_seed(0)
    detector = build_detector(cfg, 8).eval()
    if compiled:
        compile_parts(detector)
    return Predictor(detector, [str(i) for i in range(8)], list(range(1, 9)), {"data": None}, torch.device("cpu"))


def contestants(given: argparse.Namespace, folder: Path) -> dict[tuple[str, str], Run]:
    """{(neck, runtime): image (H, W, 3) uint8 -> detections}."""
    made: dict[tuple[str, str], Run] = {}
    for neck, names in (("neck=fpn", {FPN: None}), ("neck=implicit", {f"i-FPN, {n} of G": n for n in given.evals})):
        plain = predictor([neck, *given.settings], compiled=False)
        sides = {"eager": plain}
        if "compiled" in given.runtimes:
            sides["compiled"] = predictor([neck, *given.settings], compiled=True)
        for name, evals in names.items():
            for runtime, one in sides.items():
                made[name, runtime] = _eager(one, evals)
            path = folder / f"{len(made)}.onnx"
            plain.export(path, test_evals=evals)
            made[name, ONNX] = _exported(path, given.threads)
    return made


def _eager(one: Predictor, evals: int | None) -> Run:
    # One detector for all numbers of applications: what is compiled is G.
    return lambda image: (one if evals is None else plainly_iterated(one, evals))(image)


def _exported(path: Path, threads: int) -> Run:
    session = OnnxDetector(path, threads=threads).session
    return lambda image: session.run(None, {"images": np.ascontiguousarray(image.transpose(2, 0, 1))[None]})


def measure(made: dict[tuple[str, str], Run], image: np.ndarray, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of every contestant in every round; two rounds before them are not counted."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in made}
    order = list(made)
    shuffle = random.Random(0).shuffle
    for number in range(-2, rounds):
        shuffle(order)
        for key in order:
            start = time.perf_counter()
            made[key](image)
            if number >= 0:
                seconds[key].append(time.perf_counter() - start)
    return seconds


def table(seconds: dict[tuple[str, str], list[float]]) -> str:
    """Markdown: milliseconds per image, and in brackets the ratio to the exported FPN."""
    base = seconds[FPN, ONNX]
    runtimes = list(dict.fromkeys(runtime for _, runtime in seconds))
    lines = [f"| | {' | '.join(runtimes)} |", f"|---|{'---|' * len(runtimes)}"]
    for neck in dict.fromkeys(neck for neck, _ in seconds):
        cells = []
        for runtime in runtimes:
            found = seconds[neck, runtime]
            ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
            cells.append(f"{1000 * statistics.median(found):.0f} ({ratio:.2f})")
        lines.append(f"| {neck} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=["detector=atss"], help="of ifpn train (default: detector=atss)")
    parser.add_argument("--evals", type=int, nargs="+", default=[1, 2, 3, 7])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="640x480")
    parser.add_argument(
        "--runtimes", nargs="*", default=["compiled"], choices=["compiled"], help="beside eager and onnxruntime"
    )
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    torch.set_num_threads(given.threads)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of backbones without weights
        print(table(measure(contestants(given, Path(folder)), image, given.rounds)))


if __name__ == "__main__":
    main()
