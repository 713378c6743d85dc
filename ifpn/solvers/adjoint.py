"""The backward pass as a linear system: u = g + Jᵀu, J the Jacobian of f at the equilibrium.

By the implicit function theorem the gradient of a loss L(z*) with respect to anything f depends on is that of
f at z* with the cotangent u in place of g = ∂L/∂z* (paper Sec. 3.3; Bai et al., Deep Equilibrium Models,
2019). One product Jᵀv is one vector-Jacobian product (VJP) of the single graded evaluation of f.

The system is solved for g divided by its largest entry, so a solve does not depend on the size of the
gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ifpn.bounds import Ge, check
from ifpn.solvers.anderson import Anderson
from ifpn.solvers.batched import (
    accumulation_dtype,
    add_weighted_sum_,
    inner_products,
    sample_norms,
    weighted_sum,
)
from ifpn.solvers.broyden import Broyden
from ifpn.solvers.iterate import iterate
from ifpn.solvers.per_sample import Place, any_or_device, as_mask
from ifpn.solvers.solution import Solution, Status

INF = float("inf")
Product = Callable[[Tensor], Tensor]
"""v (B, N) -> Jᵀv (B, N)."""


@check
@dataclass(frozen=True)
class GMRES:
    """The smallest residual in the span of g, Jᵀg, (Jᵀ)²g, ... (Saad and Schultz 1986); one stored vector per VJP.

    Args:
        limit: largest |u| / |g|. Where J has an eigenvalue near 1 the exact u is huge and says little; such a sample
            keeps the last u within the limit. For a contraction by ρ, |u| is at most |g| / (1 - ρ): the limit of 100
            acts beyond ρ = 0.99 only.
    """

    limit: Annotated[float, Ge(1)] = 100.0

    def solve(self, product: Product, g: Tensor, max_vjps: int, rtol: float) -> Solution:
        """Solve u = g + product(u) for g (B, N)."""
        return _Arnoldi(g, max_vjps, self.limit).run(product, rtol)


class _Arnoldi:
    """Orthonormal basis v_0 = g / |g|, v_1, ... with (1 - Jᵀ) V = V H, H upper Hessenberg, all per sample."""

    def __init__(self, g: Tensor, max_vjps: int, limit: float) -> None:
        batch, size = g.shape
        exact = accumulation_dtype(g.device)
        self.g = g
        self.size = sample_norms(g)
        self.max_vjps = max_vjps
        self.limit = limit
        self.basis = g.new_empty(batch, max_vjps + 1, size)
        self.hessenberg = g.new_zeros(batch, max_vjps + 1, max_vjps, dtype=exact)
        self.failed = torch.zeros_like(self.size, dtype=torch.bool)
        self.eps = torch.finfo(g.dtype).eps

    def run(self, product: Product, rtol: float) -> Solution:
        torch.mul(self.g, _inverse(self.size).to(self.g.dtype)[:, None], out=self.basis[:, 0])
        fits: list[tuple[Tensor, Tensor]] = []
        while len(fits) < self.max_vjps:
            self._arnoldi_step(len(fits), product)
            fits.append(self._least_squares(len(fits) + 1))
            if rtol > 0 and bool((fits[-1][1] <= rtol).all()):
                break
        used = len(fits)
        y = torch.zeros_like(self.hessenberg[:, 0, :used])
        residual = (self.size > 0).to(y.dtype)
        trace = []
        for j, (fit, rest) in enumerate(fits, start=1):
            # Residuals never grow, so a later fit is a better one; a failed sample adds nothing after its failure.
            fine = torch.linalg.vector_norm(fit, dim=1) <= self.limit
            y[:, :j] = torch.where(fine[:, None], fit, y[:, :j])
            residual = torch.where(fine, rest, residual)
            trace.append(residual)
        rows = torch.stack(trace)
        u = weighted_sum(self.basis[:, :used], y * self.size[:, None], torch.empty_like(self.basis[:, 0]))
        nothing = (y == 0).all(dim=1)  # the first product failed, or g is zero
        if any_or_device(nothing):
            u = torch.where(nothing[:, None], self.g, u)
        status = torch.full_like(self.failed, Status.MAX_EVALS, dtype=torch.int64)
        status.masked_fill_(residual <= rtol, Status.CONVERGED).masked_fill_(self.failed, Status.NONFINITE)
        return Solution(u, residual, rows, used, rows.argmin(dim=0), status)

    def _arnoldi_step(self, j: int, product: Product) -> None:
        """Column j of the Hessenberg matrix and basis vector j + 1."""
        known, new = self.basis[:, : j + 1], self.basis[:, j + 1]
        torch.sub(known[:, j], product(known[:, j]), out=new)
        bad = ~(sample_norms(new) < INF)  # true for NaN, too
        self.failed |= bad
        if any_or_device(bad):
            new.masked_fill_(bad[:, None], 0.0)
        first = inner_products(known, new)
        add_weighted_sum_(new, known, -first)
        second = inner_products(known, new)  # once more: a single pass loses orthogonality to rounding
        add_weighted_sum_(new, known, -second)
        length = sample_norms(new)
        column = first + second
        # Nothing new: the system is solved exactly in the span so far.
        length = torch.where(length > 10 * self.eps * torch.linalg.vector_norm(column, dim=1), length, 0.0)
        self.hessenberg[:, : j + 1, j] = column
        self.hessenberg[:, j + 1, j] = length
        new.mul_(_inverse(length).to(new.dtype)[:, None])

    def _least_squares(self, j: int) -> tuple[Tensor, Tensor]:
        """Coefficients (B, j) of the smallest residual from j VJPs for |g| = 1, and that residual (B,)."""
        h = self.hessenberg[:, : j + 1, :j]
        normal = h.transpose(1, 2) @ h
        diagonal = normal.diagonal(dim1=1, dim2=2)
        # Columns of a finished sample are zero: any pivot gives them the coefficient 0.
        diagonal.add_(torch.where(diagonal > 0, 0.0, 1.0))
        y, _ = torch.linalg.solve_ex(normal, h[:, 0, :, None])
        rest = -(h @ y)[..., 0]
        rest[:, 0] += (self.size > 0).to(rest.dtype)
        return y[..., 0], torch.linalg.vector_norm(rest, dim=1)


@dataclass(frozen=True)
class Neumann:
    """The series u = g + Jᵀg + (Jᵀ)²g + ..., cut per sample where its terms begin to grow.

    Uncut it diverges as soon as training leaves the contraction regime, and takes the weights with it.
    """

    def solve(self, product: Product, g: Tensor, max_vjps: int, rtol: float) -> Solution:
        """Sum the series for g (B, N); the residual of a partial sum is its first missing term."""
        place = Place.of(g, tolerant=rtol > 0)
        where = place.xp.where
        (size,) = place.take(sample_norms(g))
        u, term, previous, active = g.clone(), g, size, size > 0
        status = where(active, int(Status.MAX_EVALS), int(Status.CONVERGED))
        status = where(size < INF, status, int(Status.NONFINITE))
        residual = place.full(tuple(size.shape), 1.0)
        trace = place.full((max_vjps, len(size)), 0.0)
        used = 0
        while used < max_vjps and (used == 0 or rtol == 0 or active.any()):
            term = product(term)
            (length,) = place.take(sample_norms(term))
            finite, shrinks = length < INF, length < previous  # false for NaN, too
            with np.errstate(all="ignore"):
                residual = where(active & finite, where(size > 0, length / size, 0.0), residual)
            trace[used] = residual
            verdict = where(finite, int(Status.STAGNATED), int(Status.NONFINITE))
            status = where(active & ~shrinks, verdict, status)
            active = active & shrinks
            if any_or_device(~active):
                term = torch.where(as_mask(active, term)[:, None], term, 0.0)
            u += term
            close = active & (residual <= rtol)
            status = where(close, int(Status.CONVERGED), status)
            active = active & ~close
            previous, used = length, used + 1
        residual, trace = where(size == 0, 0.0, residual), trace[:used]
        facts = (residual, trace, trace.argmin(0), status)
        residual, rows, best, status = map(place.tensor, facts)
        return Solution(u, residual, rows, used, best, status)


LinearSolver = GMRES | Neumann | Broyden | Anderson


def solve_adjoint(product: Product, g: Tensor, solver: LinearSolver, max_vjps: int, rtol: float) -> Solution:
    """Solve u = g + product(u) for every sample of g (B, N); a zero g gives a zero u, at any scale of g.

    A sample whose products fail keeps the best u before the failure, at worst u = g. The residual reported is
    |g + Jᵀu - u| / |g|.
    """
    scale = torch.linalg.vector_norm(g, ord=torch.inf, dim=1, keepdim=True)
    scale = torch.where((scale > 0) & (scale < INF), scale, 1.0)
    unit = g / scale
    with torch.autocast(g.device.type, enabled=False):
        if isinstance(solver, GMRES | Neumann):
            solution = solver.solve(product, unit, max_vjps, rtol)
        else:
            size = sample_norms(unit)
            solution, _ = iterate(lambda u: unit + product(u), unit, solver, max_vjps, rtol, 0.0, unit=size)
    return replace(solution, value=solution.value * scale)


def _inverse(x: Tensor) -> Tensor:
    return torch.where(x > 0, x.reciprocal(), 0.0)
