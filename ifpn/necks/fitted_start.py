"""A first state that is close: P^0 as a linear function of B, fitted to P* by least squares when training is over.

"Neural Deep Equilibrium Solvers" (Bai et al. 2022) trains a small network that gives a finished DEQ its first state.
Here it is linear, so that it is fitted in closed form, in seconds; the fixed point is what it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifpn.layers.resize import nearest, size_of
from ifpn.necks.neck import Levels
from ifpn.necks.pyramid_layout import FlatStep, PyramidLayout
from ifpn.necks.warm_start import relative_residual
from ifpn.solvers import Equilibrium, Forward, Stats, fixed_point
from ifpn.solvers.per_sample import any_or_device

if TYPE_CHECKING:
    from ifpn.necks.implicit import EquilibriumNeck

NAME = "fitted_start"  # of the part of a neck
FIND_EVALS, FIND_RTOL = 30, 1e-3  # evaluations at most for, and residual of, the P* that is fitted to
FOUND = 0.05  # residual above which there is no P* to fit to
CHECKED = 4  # images of which B and P* are kept, to see what the start is worth
RIDGE = 1e-4  # of the mean squared feature: 32 small images have fewer cells of P7 than a level has weights


def is_fitted_start(name: str) -> bool:
    """Whether a tensor of a state dict belongs to a fitted start, which a detector may have or not."""
    return f".{NAME}." in f".{name}"


class FittedStart(nn.Module):
    """P^0_l = A_l B_l + C_l up(B_l+1) + F_l pool(B_l-1) + d_l: 1x1 convolutions, about 0.05 of an evaluation of G.

    The reach is that of the pyramid connection. Unfitted it holds nothing, and so does its state dict.

    Args:
        channels: C.
        num_levels: L.

    Attributes:
        own, coarser, finer: (L, C, C), (L - 1, C, C), (L - 1, C, C) float32, A, C and F; None where it is not fitted.
        bias: (L, C), d.
        residual: () float32, |f(P^0) - P^0| / |f(P^0)| of the median image that was looked at; that of zero is 1.
        contraction: () float32, |f(P^0) - P*| / |f(P^0) - P^0| of the median image: what one evaluation leaves.
    """

    own: Tensor | None
    coarser: Tensor | None
    finer: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    contraction: Tensor | None
    place: Tensor

    def __init__(self, channels: int, num_levels: int) -> None:
        super().__init__()
        kernels = (num_levels - 1, channels, channels)
        self.shapes: dict[str, tuple[int, ...]] = {"own": (num_levels, channels, channels), "coarser": kernels}
        self.shapes |= {"finer": kernels, "bias": (num_levels, channels), "residual": (), "contraction": ()}
        self.register_buffer("place", torch.empty(0), persistent=False)  # has the module's device
        self.clear()

    @property
    def is_fitted(self) -> bool:
        """Whether it says more than zero."""
        return self.own is not None

    def clear(self) -> None:
        """Forget the fit: the weights it belongs to have changed."""
        for name in self.shapes:
            self.register_buffer(name, None)

    def hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold copies of these tensors, by the names of the attributes."""
        for name in self.shapes:
            # Memory of its own, as every other weight: where it begins decides how a product is rounded.
            held = torch.empty(self.shapes[name], device=self.place.device)
            self.register_buffer(name, held.copy_(tensors[name].detach()))

    def known(self, name: Literal["residual", "contraction"]) -> float:
        """One of the two measured numbers of a fit; inf where there is none."""
        value = self.residual if name == "residual" else self.contraction
        return float("inf") if value is None else float(value)

    @property
    def error(self) -> float:
        """Relative error of the pyramid after one evaluation, of the median image; inf where nothing is fitted."""
        return self.known("residual") * self.known("contraction")

    def told(self, fit: StartFit) -> str:
        """One sentence about a fit."""
        if self.residual is not None:
            return (
                f"evaluation's first state is fitted to {fit.images} training images: its residual is "
                f"{self.residual:.2f}, that of zero is 1"
            )
        why = "it is no better" if fit.images else f"the fixed point is found for none of {fit.missed} training images"
        return f"evaluation starts from zero: no first state was fitted, {why}"

    def forward(self, b: Levels) -> Levels:
        """P^0 of B, levels (N, C, H_l, W_l) both, in the type of B.

        Raises:
            RuntimeError: it is not fitted.
        """
        if self.own is None or self.coarser is None or self.finer is None or self.bias is None:
            raise RuntimeError("the first state is not fitted: call `neck.fitting_start()` first")
        start = []
        for i, level in enumerate(b):
            p = F.conv2d(level, _kernel(self.own[i], level), self.bias[i].to(level.dtype))
            if i + 1 < len(b):
                p = p + nearest(F.conv2d(b[i + 1], _kernel(self.coarser[i], level)), size_of(level))
            if i > 0:
                p = p + F.conv2d(_pooled(b[i - 1]), _kernel(self.finer[i - 1], level))
            start.append(p)
        return start

    @torch.no_grad()
    def state(self, b: Levels, layout: PyramidLayout) -> Tensor:
        """P^0 as a solver's state (N, D); zero for an image with NaN, which then fails as it would from zero."""
        start = layout.flatten(self(b), layout.state_dtype(b[0]))
        bad = ~(torch.linalg.vector_norm(start, ord=torch.inf, dim=1) < torch.inf)  # true for NaN, too
        return torch.where(bad[:, None], 0.0, start) if any_or_device(bad) else start

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Become what the state dict holds, fitted or not."""
        held = {name: state_dict[prefix + name] for name in self.shapes if prefix + name in state_dict}
        if {name: tuple(value.shape) for name, value in held.items()} == self.shapes:
            self.hold(held)
        else:  # what there is of it is unexpected
            self.clear()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _kernel(weight: Tensor, like: Tensor) -> Tensor:
    return weight.to(like.dtype)[:, :, None, None]


def _pooled(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, ceil(H / 2), ceil(W / 2)): the mean of 3 x 3 cells around every other one."""
    return F.avg_pool2d(x, kernel_size=3, stride=2, padding=1, count_include_pad=False)


@dataclass
class StartFit:
    """The sums of a least-squares problem per level, image by image.

    Attributes:
        images: images whose P* was found.
        missed: images whose P* was not.
        checked: B and P* of some of them, one image each.
    """

    images: int = 0
    missed: int = 0
    checked: list[tuple[Levels, Levels]] = field(default_factory=list)
    _squares: list[Tensor] = field(default_factory=list)
    _products: list[Tensor] = field(default_factory=list)

    def look(self, f: FlatStep, z0: Tensor) -> tuple[Tensor, Stats]:
        """Find P* (N, D) of f as well as it can be found, and add it."""
        p, stats = fixed_point(f, z0, forward=Forward(max_evals=FIND_EVALS, rtol=FIND_RTOL))
        self.add(f.b, f.layout.views(p), stats.forward.residual <= FOUND)
        return p, stats

    def add(self, b: Levels, p: Levels, found: Tensor) -> None:
        """Add images: B and P*, levels (N, C, H_l, W_l), where `found` (N,) bool says that P* is one."""
        self.missed += int((~found).sum())
        if not bool(found.any()):
            return
        b, p = [level[found].float() for level in b], [level[found].float() for level in p]
        self.images += int(found.sum())
        if len(self.checked) < CHECKED:
            self.checked.append(([level[:1] for level in b], [level[:1] for level in p]))
        pairs = [_sums(_features(b, i), level) for i, level in enumerate(p)]
        squares, products = [list(sums) for sums in zip(*pairs, strict=True)]
        before = (self._squares, self._products) if self._squares else ([0] * len(p), [0] * len(p))
        self._squares = [old + new for old, new in zip(before[0], squares, strict=True)]
        self._products = [old + new for old, new in zip(before[1], products, strict=True)]

    def solve(self) -> dict[str, Tensor]:
        """The weights, as `FittedStart.hold` takes them; what the start is worth has still to be seen."""
        weights = []
        for squares, products in zip(self._squares, self._products, strict=True):
            ridge = RIDGE * squares.diagonal().mean().clamp(min=1e-30)
            weights.append(torch.linalg.solve(squares + ridge * torch.eye(len(squares)).double(), products).T)
        c, last = len(weights[0]), len(weights) - 1
        return {
            "own": torch.stack([w[:, :c] for w in weights]),
            "coarser": torch.stack([w[:, c : 2 * c] for w in weights[:last]]) if last else torch.empty(0, c, c),
            "finer": torch.stack([w[:, -1 - c : -1] for w in weights[1:]]) if last else torch.empty(0, c, c),
            "bias": torch.stack([w[:, -1] for w in weights]),
            "residual": torch.tensor(torch.inf),
            "contraction": torch.tensor(torch.inf),
        }


@contextmanager
def fitting(neck: EquilibriumNeck) -> Iterator[StartFit]:
    """See `EquilibriumNeck.fitting_start`."""
    if not isinstance(neck.solver, Equilibrium) or neck.solver.fit_start == 0:
        raise RuntimeError(
            f"{type(neck.solver).__name__}: must be an Equilibrium with fit_start above 0; others start from zero"
        )
    if neck.training:
        raise RuntimeError("the first state of evaluation is fitted in evaluation mode: call eval() first")
    neck.fitted_start.clear()
    fit = neck.start_fit = StartFit()
    try:
        yield fit
    finally:
        neck.start_fit = None
    if fit.images:
        neck.fitted_start.hold(fit.solve())
        _measure(neck, fit)


@torch.no_grad()
def _measure(neck: EquilibriumNeck, fit: StartFit) -> None:
    """Find out what the start is worth; without it, if that is no more than zero, whose residual is 1."""
    residuals, contractions = [], []
    with neck.solving():
        for b, p in fit.checked:
            f = neck.flat_map(b)
            z0 = neck.first_state(f)
            value = f(z0)
            residuals.append(relative_residual(value, z0))
            contractions.append((value - f.layout.flatten(p, z0.dtype)).norm() / (value - z0).norm())
    start = neck.fitted_start
    start.residual, start.contraction = torch.cat(residuals).median(), torch.stack(contractions).median()
    if not start.residual < 1:
        start.clear()


def _features(b: Levels, i: int) -> Tensor:
    """What level i of the start is a linear function of: (N, K, H_i, W_i), its own B first, ones last."""
    parts = [b[i]]
    if i + 1 < len(b):
        parts.append(nearest(b[i + 1], size_of(b[i])))
    if i > 0:
        parts.append(_pooled(b[i - 1]))
    return torch.cat([*parts, torch.ones_like(b[i][:, :1])], dim=1)


def _sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """XᵀX and XᵀY over images and cells, float64 on the CPU (not every device has it)."""
    rows, targets = x.transpose(0, 1).flatten(1), y.transpose(0, 1).flatten(1)
    with torch.autocast(x.device.type, enabled=False):  # three digits of bfloat16 are too few to be inverted
        return (rows @ rows.T).double().cpu(), (rows @ targets.T).double().cpu()
