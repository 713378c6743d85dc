"""Seconds per training step of our detectors and of torchvision's, side by side in one process.

    python -m benchmarks.bench_detectors [detector ...] [--backbone resnet50] [--pairs 10] [--batch 8] [--size 256]

Both sides have the same backbone (random weights), neck=fpn against torchvision's FeaturePyramidNetwork of the same
width, the same images and targets, and AdamW. A pair is one step of each, in alternating order; the ratio is that of
the medians, so other work on the machine slows both sides alike.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ifpn.config.build import build_detector
from ifpn.config.paths import CONF

sys.path.insert(0, str(Path(__file__).parent))
from benchmarks.compare_torchvision import build_peer

NAMES = ("fcos", "retina", "faster_rcnn")
NUM_CLASSES = 8
BOXES = 8  # per image, about as many as in COCO and in the built-in data


def configuration(detector: str, backbone: str, size: int, channels: int) -> DictConfig:
    """Compose a detector with an FPN, without ImageNet weights."""
    overrides = [
        f"detector={detector}",
        f"backbone={backbone}",
        "backbone.weights=none",
        "neck=fpn",
        f"neck.out_channels={channels}",
        f"image.min_size=[{size}]",
        f"image.max_size={2 * size}",
        "run_dir=unused",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = OmegaConf.create(OmegaConf.to_container(compose("train", overrides=overrides), resolve=True))
    assert isinstance(cfg, DictConfig)
    return cfg


def make_batch(size: int, batch: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Noise with boxes of all sizes; what a step costs does not depend on what the pictures show."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, size, size, generator=generator) for _ in range(batch)]
    targets = []
    for _ in range(batch):
        side = size * (0.05 + 0.6 * torch.rand(BOXES, 2, generator=generator) ** 2)
        low = torch.rand(BOXES, 2, generator=generator) * (size - side)
        labels = torch.randint(NUM_CLASSES, (BOXES,), generator=generator)
        targets.append({"boxes": torch.cat([low, low + side], dim=1), "labels": labels})
    return images, targets


class Contestant:
    """A detector and its optimiser."""

    def __init__(self, detector: nn.Module, device: torch.device) -> None:
        self.detector = detector.to(device).train()
        trained = [p for p in detector.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.seconds: list[float] = []

    def step(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
        """Train one batch, as a training loop would."""
        begun = time.perf_counter()
        loss = torch.stack(list(self.detector(images, targets).values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()  # waits for the device
        self.seconds.append(time.perf_counter() - begun)


def compare(name: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Median seconds per step, (ours, torchvision's)."""
    device = torch.device(arguments.device)
    cfg = configuration(name, arguments.backbone, arguments.size, arguments.channels)
    images, targets = make_batch(arguments.size, arguments.batch)
    images = [image.to(device) for image in images]
    targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
    sides = []
    for build in (build_detector, build_peer):
        torch.manual_seed(0)
        sides.append(Contestant(build(cfg, NUM_CLASSES), device))
    for side in sides:  # the first steps allocate memory and choose kernels
        side.step(images, targets)
        side.step(images, targets)
        side.seconds.clear()
    for pair in range(arguments.pairs):
        for side in sides if pair % 2 == 0 else reversed(sides):
            side.step(images, targets)
    ours, theirs = (statistics.median(side.seconds) for side in sides)
    return ours, theirs


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(description="Our training step against torchvision's.")
    parser.add_argument("detectors", nargs="*", default=[], metavar="detector", help=f"of {', '.join(NAMES)}; all")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="an option of conf/backbone")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.detectors if name not in NAMES]
    if unknown:
        parser.error(f"{unknown[0]}: torchvision has {', '.join(NAMES)} only")
    logging.getLogger("ifpn.backbones").setLevel(logging.ERROR)  # random weights are meant
    print(f"{'detector':<12}{'ours (s)':>10}{'torchvision (s)':>17}{'ours / torchvision':>20}")
    for name in arguments.detectors or NAMES:
        ours, theirs = compare(name, arguments)
        print(f"{name:<12}{ours:>10.3f}{theirs:>17.3f}{ours / theirs:>20.2f}", flush=True)


if __name__ == "__main__":
    main()
