"""How far a cell of the pyramid can see: its effective receptive field, measured by gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifpn.predictor import Predictor
from ifpn.solvers import GMRES, Equilibrium, Implicit
from reproduce.inspect_checkpoint import body_of, level_names, network_input

Array = NDArray[np.float64]
# Solving and differentiating finer than in training: what is measured is the fixed point's field, not the budget's.
EVALS, PRODUCTS = 30, 20


@dataclass(frozen=True)
class Field:
    """The mean field of the central cell of one level.

    Attributes:
        level: "P3", ...
        density: (2 R + 1, 2 R + 1) share of the gradient's absolute value per pixel of the network's input, the cell in
            the middle; sums to 1.
        distances, within: share of it within each distance in pixels.
        half, most: distances within which 50 % and 90 % lie.
        images: over which it was averaged.
    """

    level: str
    density: Array
    distances: Array
    within: Array
    half: float
    most: float
    images: int


def receptive_fields(
    predictor: Predictor, images: Sequence[Tensor], levels: Sequence[str], *, probes: int = 4
) -> list[Field]:
    """Effective receptive fields (Luo et al. 2016) of the levels, averaged over images.

    For the cell in the middle of the image: E_w |d <w, P_cell> / d input|, summed over colours, over `probes` random
    sign vectors w over the channels. The gradient of an equilibrium is the implicit one. Padding counts for nothing.

    Raises:
        ValueError: no images.
    """
    if not images:
        raise ValueError("receptive_fields needs at least one image")
    names = level_names(predictor)
    inputs = [network_input(predictor, image) for image in images]
    reach = max(max(size) for _, size in inputs)
    total = {level: np.zeros((2 * reach + 1, 2 * reach + 1)) for level in levels}
    generator = torch.Generator().manual_seed(0)
    with _Finely(predictor):
        for batch, size in inputs:
            x = batch.detach().clone().requires_grad_()
            with torch.enable_grad():
                pyramid = dict(zip(names, body_of(predictor)(x), strict=True))
            for level in levels:
                weight, cell = _weight(x, size, pyramid[level], probes, generator)
                weight[size[0] :], weight[:, size[1] :] = 0, 0
                top, left = reach - cell[0], reach - cell[1]
                share = weight / max(float(weight.sum()), np.finfo(float).tiny)
                total[level][top : top + share.shape[0], left : left + share.shape[1]] += share[
                    : 2 * reach + 1 - top, : 2 * reach + 1 - left
                ]
    return [_field(level, total[level] / len(images), len(images)) for level in levels]


def _weight(
    x: Tensor, size: tuple[int, int], level: Tensor, probes: int, generator: torch.Generator
) -> tuple[Array, tuple[int, int]]:
    """|gradient| per pixel of the padded input, and the pixel at the place of the cell in the middle of the image."""
    stride = x.shape[-2] / level.shape[-2], x.shape[-1] / level.shape[-1]
    row, column = int(size[0] / 2 / stride[0]), int(size[1] / 2 / stride[1])
    sum_of = torch.zeros(x.shape[-2:], dtype=torch.float64)
    for _ in range(probes):
        signs = torch.randint(0, 2, (level.shape[1],), generator=generator).to(level) * 2 - 1
        value = (level[0, :, row, column] * signs).sum()
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        sum_of += gradient[0].abs().sum(dim=0).double().cpu()
    cell = int((row + 0.5) * stride[0]), int((column + 0.5) * stride[1])
    return sum_of.numpy(), cell


def _field(level: str, density: Array, images: int) -> Field:
    density = density / max(float(density.sum()), np.finfo(float).tiny)
    reach = density.shape[0] // 2
    offset = np.arange(-reach, reach + 1)
    distance = np.hypot(offset[:, None], offset[None, :])
    order = np.argsort(distance, axis=None, kind="stable")
    mass = np.cumsum(density.ravel()[order])
    radii = distance.ravel()[order]
    whole = np.arange(reach + 1, dtype=float)
    within = np.array([mass[np.searchsorted(radii, r, side="right") - 1] for r in whole])
    half, most = (float(radii[np.searchsorted(mass, share)]) for share in (0.5, 0.9))
    return Field(level, density, whole, within, half, most, images)


class _Finely:
    """Inside the block an equilibrium is solved and differentiated finely; other necks stay as they are."""

    def __init__(self, predictor: Predictor) -> None:
        self.neck = body_of(predictor).neck
        self.before = getattr(self.neck, "solver", None)

    def __enter__(self) -> None:
        if isinstance(self.before, Equilibrium):
            fine = replace(
                self.before,
                test_evals=max(EVALS, self.before.test_evals),
                backward=Implicit(GMRES(), max_vjps=PRODUCTS),
            )
            setattr(self.neck, "solver", fine)  # noqa: B010  # Module types loosely

    def __exit__(self, *_: object) -> None:
        if isinstance(self.before, Equilibrium):
            setattr(self.neck, "solver", self.before)  # noqa: B010
