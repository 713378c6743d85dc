"""A tiny body, the five detectors with the numbers of their YAML files, and golden figures."""

import json
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ifpn.detectors.anchors import AnchorGrid, Anchors

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
DETECTORS = ("retina", "fcos", "atss", "autoassign", "faster_rcnn")
DENSE = DETECTORS[:4]
STRIDES = (8, 16, 32, 64, 128)


class TinyBackbone(nn.Module):
    """Four strided convolutions: c2..c5 with a few channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.levels = {f"c{i}": (width * (i - 1), 2**i) for i in range(2, 6)}
        self.stem = nn.Conv2d(3, width, kernel_size=5, stride=4, padding=2)
        self.stages = nn.ModuleList(
            nn.Conv2d(width * i, width * (i + 1), kernel_size=3, stride=2, padding=1) for i in range(1, 4)
        )

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = [self.stem(images).relu()]
        for stage in self.stages:
            maps.append(stage(maps[-1]).relu())
        return OrderedDict(zip(self.levels, maps, strict=True))


class TorchvisionFPN(FeaturePyramidNetwork):
    """torchvision's pyramid with the two names a neck has in this package."""

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: int,
        extra_blocks: nn.Module | None,
        extra_levels: str,
    ) -> None:
        if extra_levels != "none":
            source = out_channels if extra_levels == "p5" else in_channels_list[-1]
            extra_blocks = LastLevelP6P7(source, out_channels)
            extra_blocks.use_P5 = extra_levels == "p5"
        super().__init__(in_channels_list, out_channels, extra_blocks)
        self.out_channels = out_channels


def configuration(name: str, box_coder: str = "ltrb") -> dict[str, Any]:
    """What conf/detector/<name>.yaml says, for ATSS with the chosen box coder."""
    folder = ROOT / "conf" / "detector"
    config: Any = OmegaConf.load(folder / f"{name}.yaml")
    if config.pop("defaults", None):
        config = OmegaConf.merge(config, OmegaConf.load(folder / "box_coder" / f"{box_coder}.yaml"))
    return OmegaConf.to_container(config)


def numbers(name: str, box_coder: str = "ltrb") -> dict[str, Any]:
    """The same without its structure: {"alpha": 0.25, ...}."""
    config = configuration(name, box_coder)
    parts = [part for part in config.values() if isinstance(part, dict)]
    return {key: value for part in (config, *parts) for key, value in part.items() if not isinstance(value, dict)}


def make_detector(
    name: str,
    num_classes: int = 3,
    *,
    channels: int = 16,
    image_size: int = 64,
    neck: Callable[..., nn.Module] = TorchvisionFPN,
    box_coder: str = "ltrb",
    **changes: Any,
) -> nn.Module:
    """A YAML file's detector on a tiny body, towers of one convolution; images resized to image_size.

    changes: settings by the name that they have in their part of the file.
    """
    config = configuration(name, box_coder)
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for key, value in {**({"num_convs": 1} if name in DENSE else {"hidden": 32}), **changes}.items():
        next(part for part in parts if key in part)[key] = value
    body = instantiate(config["body"])(TinyBackbone(), partial(neck, out_channels=channels))
    transform = GeneralizedRCNNTransform(image_size, 2 * image_size, [0.5] * 3, [0.5] * 3)
    return instantiate(config)(body=body, num_classes=num_classes, transform=transform)


def make_target(boxes: list[list[float]], labels: list[int]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def make_anchors(name: str, sizes: list[tuple[int, int]], strides: tuple[int, ...] = STRIDES) -> Anchors:
    """The prediction locations of a detector, for levels of the given (rows, columns)."""
    config = configuration(name)["anchors"]
    return AnchorGrid(strides, config["scales"], config["ratios"]).build(sizes)


def arrays(name: str) -> dict[str, Tensor]:
    """The arrays of a golden file."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def figures(name: str) -> dict[str, Any]:
    """The figures of a golden file."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def grid_sizes(golden: dict[str, Tensor]) -> list[tuple[int, int]]:
    return [(int(rows), int(columns)) for rows, columns in golden["grid_sizes"]]
