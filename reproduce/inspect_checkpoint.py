"""A checkpoint under the microscope: its pyramids, and its fixed point with another solver."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ifpn.data import ImageFolder
from ifpn.detectors.body import BackboneWithNeck
from ifpn.errors import ConfigError
from ifpn.necks import StackedFPN
from ifpn.predictor import Predictor
from ifpn.solvers import Equilibrium, Stats, Unroll

Map = Callable[[Tensor], Tensor]
# What the necks are called in pictures.
NAMES = {
    "ImplicitFPN": "i-FPN",
    "MDEQNeck": "MDEQ",
    "FPN": "FPN",
    "PAFPN": "PANet",
    "StackedFPN": "stacked FPN",
    "NoFPN": "no FPN",
}


def read_images(source: str | Path, count: int) -> list[Tensor]:
    """Up to `count` images (3, H, W) uint8 of a file or folder, in the order of their names."""
    folder = ImageFolder(source)
    return [folder[i][1] for i in range(min(count, len(folder)))]


def body_of(predictor: Predictor) -> BackboneWithNeck:
    """Backbone and neck of any of our detectors."""
    return cast(BackboneWithNeck, predictor.detector.body)


def neck_name(predictor: Predictor) -> str:
    """The neck in words, e.g. "i-FPN"."""
    name = type(body_of(predictor).neck).__name__
    return NAMES.get(name, name)


def describe_solver(predictor: Predictor) -> str:
    """The neck and what it repeats: "i-FPN, 2 applications", "i-FPN, equilibrium", "stacked FPN, 4 blocks"."""
    neck = body_of(predictor).neck
    solver = getattr(neck, "solver", None)
    if isinstance(neck, StackedFPN):
        return f"{neck_name(predictor)}, {len(neck.blocks)} block{'s' * (len(neck.blocks) != 1)}"
    if solver is None:
        return neck_name(predictor)
    unrolled = isinstance(solver, Unroll)
    how = f"{solver.steps} application{'s' * (solver.steps != 1)}" if unrolled else "equilibrium"
    return f"{neck_name(predictor)}, {how}"


def level_names(predictor: Predictor) -> list[str]:
    """Name the levels of the pyramid by their strides: "P3", "P4", ..."""
    return [f"P{stride.bit_length() - 1}" for stride in body_of(predictor).strides]


def network_input(predictor: Predictor, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """One image (3, H, W) uint8 as the network sees it, (1, 3, H', W') padded, and its size without padding."""
    transform = cast(Callable[..., Any], predictor.detector.transform)
    batch, _ = transform([image.to(predictor.device).float() / 255], None)
    height, width = batch.image_sizes[0]
    return batch.tensors, (int(height), int(width))


def features(predictor: Predictor, image: Tensor) -> OrderedDict[str, Tensor]:
    """The backbone's levels that the neck reads, (1, C_l, H_l, W_l)."""
    body = body_of(predictor)
    with torch.no_grad():
        maps = body.backbone(network_input(predictor, image)[0])
    return OrderedDict((name, maps[name].contiguous()) for name in body.in_levels)


@contextmanager
def solved_by(predictor: Predictor, policy: Callable[..., tuple[Tensor, Stats]]) -> Iterator[nn.Module]:
    """The neck, with `policy(f, z0, training=…)` in its solver's place inside the block.

    Raises:
        ConfigError: the neck solves no fixed point.
    """
    neck = body_of(predictor).neck
    before = getattr(neck, "solver", None)
    if not isinstance(before, Equilibrium):
        raise ConfigError(f"this checkpoint's neck ({neck_name(predictor)}) solves no fixed point: give one that does.")
    setattr(neck, "solver", policy)  # noqa: B010  # Module types loosely
    try:
        yield neck
    finally:
        setattr(neck, "solver", before)  # noqa: B010


def equilibrium_of(predictor: Predictor) -> Equilibrium:
    """The solver that the checkpoint was trained with. Raises ConfigError if there is none."""
    solver = getattr(body_of(predictor).neck, "solver", None)
    if not isinstance(solver, Equilibrium):
        raise ConfigError(f"this checkpoint's neck ({neck_name(predictor)}) solves no fixed point: give one that does.")
    return solver


def inside_the_solve(predictor: Predictor, image: Tensor, look: Callable[[Map, Tensor], Sequence[Any]]) -> list[Any]:
    """Call `look(f, z0)` where the neck would solve z = f(z), with weight norm and dropout as they are there."""
    found: list[Any] = []

    def policy(f: Map, z0: Tensor, *, training: bool) -> tuple[Tensor, Stats | None]:
        found.extend(look(f, z0))
        return z0, None

    with solved_by(predictor, cast(Any, policy)) as neck:
        neck(features(predictor, image))
    return found
