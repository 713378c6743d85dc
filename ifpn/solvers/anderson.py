"""Anderson acceleration: the mixture of the last m values of f whose residuals cancel best.

    minimise |Σ_i w_i r_i| subject to Σ_i w_i = 1,  r_i = f(z_i) - z_i,   z_next = Σ_i w_i (z_i + β r_i)

(D. G. Anderson 1965; H. Walker and P. Ni 2011). The Gram matrix of the residuals changes by one row per
evaluation, so an iteration reads the m residuals once and the m values once, for any number of iterations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from ifpn.bounds import Ge, Gt, Le, check
from ifpn.solvers.batched import add_weighted_sum_, inner_products, keep_rows, weighted_sum
from ifpn.solvers.per_sample import Place


@check
@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration over the last m evaluations; beta < 1 mixes in the states too (damping)."""

    m: Annotated[int, Ge(1), Le(1000)] = 5
    beta: Annotated[float, Gt(0), Le(1)] = 1.0

    def start(self, z0: Tensor, max_evals: int) -> _AndersonSteps:
        """Allocate for one solve from z0 (B, N)."""
        return _AndersonSteps(min(self.m, max_evals), self.beta, z0)


class _AndersonSteps:
    def __init__(self, m: int, beta: float, z0: Tensor) -> None:
        batch, size = z0.shape
        self.m, self.beta = m, beta
        self.count = 0
        self.residuals = z0.new_empty(batch, m, size)
        self.values = z0.new_empty(batch, m, size)
        self.place = place = Place.of(z0, tolerant=False)
        self.gram = place.full((batch, m, m), 0.0)
        self.inverse = place.full((batch, m), 0.0)  # 1 / |residual|
        self.plain = place.eye(m)  # weights of plain iteration
        # A tenth of the rounding error of the inner products, on a Gram matrix scaled to unit diagonal: it
        # acts on residuals that are parallel within rounding, and equally whatever the residuals' size.
        self.ridge = 0.1 * torch.finfo(z0.dtype).eps * self.plain

    def residual_buffer(self) -> Tensor:
        return self.residuals[:, self.count % self.m]

    def step(self, z: Tensor, fz: Tensor, out: Tensor) -> None:
        i, n = self.count % self.m, min(self.count + 1, self.m)
        self.values[:, i].copy_(fz)
        (row,) = self.place.take(inner_products(self.residuals[:, :n], self.residuals[:, i]))
        with np.errstate(all="ignore"):  # a residual of zero, or none: `_weights` sees to it
            self.gram[:, i, :n] = row
            self.gram[:, :n, i] = row
            self.inverse[:, i] = row[:, i] ** -0.5
            weights = self.place.tensor(self._weights(i, n))
        weighted_sum(self.values[:, :n], weights, out)
        if self.beta != 1:
            add_weighted_sum_(out, self.residuals[:, :n], (self.beta - 1) * weights)
        self.count += 1

    def take(self, index: Tensor) -> None:
        self.residuals, self.values = keep_rows(self.residuals, index), keep_rows(self.values, index)
        (rows,) = self.place.take(index)
        self.gram, self.inverse = self.gram[rows], self.inverse[rows]

    def _weights(self, newest: int, n: int) -> Any:
        """(B, n) weights, summing to 1, of the smallest mixture of residuals."""
        size = self.inverse[:, :n]
        scaled = self.gram[:, :n, :n] * size[:, :, None] * size[:, None] + self.ridge[:n, :n]
        weights = size * self.place.solve(scaled, size[..., None])[..., 0]
        weights = weights / weights.sum(1)[:, None]
        fine = abs(weights.sum(1) - 1) < 0.5  # it is 1, unless a weight is not finite
        return self.place.xp.where(fine[:, None], weights, self.plain[newest, :n])
