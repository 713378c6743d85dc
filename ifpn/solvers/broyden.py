"""Broyden's method, storing its steps only.

With g(z) = f(z) - z, Broyden's "good" method started from the inverse Jacobian -1 takes the steps s_k = -α
H_k g_k, and the rank-one corrections of H are themselves made of steps (C. T. Kelley, Iterative Methods for
Linear and Nonlinear Equations, 1995, ch. 7):

    -H_{k+1} = (1 + w_k s_kᵀ)(-H_k),   w_k = (s_{k+1} + (α - 1) s_k) / |s_k|².

So K iterations need K stored vectors instead of the 2 K of the textbook form. The product is evaluated in
compact form from the inner products t_i = s_i·g and the Gram matrix M of the steps, both tiny:

    d = (1 - L)⁻¹ t,   L_ji = s_j·w_i (i < j),   e_i = d_i / |s_i|²,
    s_k = a (g + Σ_i c_i s_i),   c_i = e_{i-1} + (α - 1) e_i,   a = α / (1 - α e_{k-1}),
    new row of M: a (t + M c).

One iteration reads every stored vector twice: once for t and once for the combination.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ifpn.bounds import Ge, Gt, Le, check
from ifpn.solvers.batched import (
    accumulation_dtype,
    add_weighted_sum_,
    inner_products,
    keep_rows,
    sample_norms,
)
from ifpn.solvers.per_sample import any_or_device


@check
@dataclass(frozen=True)
class Broyden:
    """Broyden's method with step length alpha.

    Args:
        alpha: share of each quasi-Newton step that is taken; below 1 it damps maps that overshoot.
        memory: number of steps kept. A longer solve starts its approximation of the Jacobian afresh from the
            current state: the product form above cannot drop its oldest factor.
    """

    alpha: Annotated[float, Gt(0), Le(1)] = 1.0
    memory: Annotated[int, Ge(1), Le(1000)] = 32

    def start(self, z0: Tensor, max_evals: int) -> _BroydenSteps:
        """Allocate for one solve from z0 (B, N)."""
        return _BroydenSteps(self.alpha, min(self.memory, max_evals), z0)


class _BroydenSteps:
    """Steps are stored as s_i = scale_i h_i: row k first holds g, then h_k = g + ..., formed in place."""

    def __init__(self, alpha: float, rows: int, z0: Tensor) -> None:
        batch, size = z0.shape
        self.alpha = alpha
        self.rows = rows
        self.k = 0
        self.h = z0.new_empty(batch, rows, size)
        exact = accumulation_dtype(z0.device)
        self.scale = z0.new_zeros(batch, rows, dtype=exact)
        self.gram = z0.new_zeros(batch, rows, rows + 1, dtype=exact)  # one spare column: see L
        self.inverse = z0.new_zeros(batch, rows, dtype=exact)  # 1 / |s_i|², 0 for a step that is ignored
        self.breakdown = torch.finfo(z0.dtype).eps

    def residual_buffer(self) -> Tensor:
        if self.k == self.rows:
            self.k = 0
        return self.h[:, self.k]

    def step(self, z: Tensor, fz: Tensor, out: Tensor) -> None:
        k, h = self.k, self.h[:, self.k]
        a = self._direction(k, h) if k > 0 else torch.full_like(self.scale[:, 0], self.alpha)
        square = (a * sample_norms(h)).square()
        self.scale[:, k] = a
        self.gram[:, k, k] = square
        self.inverse[:, k] = square.reciprocal()
        torch.addcmul(z, a.to(z.dtype)[:, None], h, out=out)
        self.k += 1

    def take(self, index: Tensor) -> None:
        self.h = keep_rows(self.h, index)
        self.scale, self.gram, self.inverse = self.scale[index], self.gram[index], self.inverse[index]

    def _direction(self, k: int, h: Tensor) -> Tensor:
        """Turn h = g (B, N) into the direction of step k, in place, and return its scale a (B,)."""
        alpha, scale, gram, inverse = self.alpha, self.scale[:, :k], self.gram[:, :k, :k], self.inverse[:, :k]
        t = inner_products(self.h[:, :k], h) * scale
        products = self.gram[:, :k, 1 : k + 1] if alpha == 1 else self.gram[:, :k, 1 : k + 1] + (alpha - 1) * gram
        # `unitriangular` reads nothing on or above the diagonal, where L is not defined.
        lower = products * -inverse[:, None]
        d = torch.linalg.solve_triangular(lower, t[..., None], upper=False, unitriangular=True)[..., 0]
        e = d * inverse
        c = (alpha - 1) * e
        c[:, 1:].add_(e[:, :-1])
        pivot = 1 - alpha * e[:, -1]
        a: Tensor = alpha / pivot
        # A vanishing pivot means a step without end. That sample forgets its past and takes a plain damped
        # step. (Any NaN or inf in d reaches its last entry, and so the pivot.)
        broken = ~((a.abs() < 1 / self.breakdown) & (a != 0))
        if any_or_device(broken):
            a = torch.where(broken, alpha, a)
            c.masked_fill_(broken[:, None], 0.0)
            inverse.masked_fill_(broken[:, None], 0.0)
        add_weighted_sum_(h, self.h[:, :k], c * scale)
        row = a[:, None] * (t + (gram @ c[..., None])[..., 0])
        self.gram[:, k, :k] = row
        self.gram[:, :k, k] = row
        return a
