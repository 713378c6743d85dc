"""Residuals and verdicts of every sample of a search."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ifpn.solvers.batched import accumulation_dtype, sample_norms
from ifpn.solvers.per_sample import Flags, Place, any_or_device
from ifpn.solvers.solution import Solution, Status

INF = float("inf")


class Tracker:
    """What is known of the samples of one search.

    `rows` (b,) are the samples still computed, None for all of them; what the loop passes and gets has b rows. Samples
    leave only where the numbers are on the host.

    Args:
        z0: (B, N) first state.
        max_evals: evaluations at most.
        rtol: relative tolerance.
        atol: absolute tolerance.
        unit: (B,) takes the place of |f(z)|.
        place: where the numbers are kept.

    Attributes:
        active: (B,) samples that are not finished.
    """

    def __init__(self, z0: Tensor, max_evals: int, rtol: float, atol: float, unit: Tensor | None, place: Place) -> None:
        batch = z0.shape[0]
        self.place, self.where = place, place.xp.where
        self.rtol, self.atol = rtol, atol
        self.unit = None if unit is None else place.take(unit)[0]
        self.tiny = torch.finfo(accumulation_dtype(z0.device)).tiny
        self.floor = 8 * torch.finfo(z0.dtype).eps  # no residual of rounded states can be asked to be smaller
        self.trace = place.full((max_evals, batch), 0.0)
        self.best = place.full((batch,), INF)
        self.best_eval = place.full((batch,), 0)
        self.last_eval = place.full((batch,), max_evals - 1)
        self.status = place.full((batch,), int(Status.MAX_EVALS))
        self.active = self.best > 0
        self.rows: Any = None

    def update(self, i: int, change: Tensor, fz: Tensor) -> Flags:
        """Enter evaluation i, change = f(z) - z (b, N). Returns the mask (b,) of samples at a new best."""
        where = self.where
        with np.errstate(all="ignore"):  # inf and NaN are told apart here
            size, unit = self._sizes(change, fz)
            finite = size + unit < INF  # false for NaN, too
            residual = where(finite, size / where(unit > self.tiny, unit, self.tiny), INF)
            limit = where(self.rtol * unit > self.atol, self.rtol * unit, self.atol)
            unfinished = finite & (size > limit)
        if self.rows is not None:  # of the others nothing new is known
            residual, finite, unfinished = (self._whole(x) for x in (residual, finite, unfinished))
        residual = where(self.active, residual, self.best)
        self.trace[i] = residual
        improved = residual < self.best
        self.best = where(improved, residual, self.best)
        self.best_eval = where(improved, i, self.best_eval)
        finished = self.active & ~unfinished
        if any_or_device(finished):
            verdict = where(finite, int(Status.CONVERGED), int(Status.NONFINITE))
            self.status = where(finished, verdict, self.status)
            self.last_eval = where(finished, i, self.last_eval)
            self.active = self.active & unfinished
        return self.present(improved)

    def _sizes(self, change: Tensor, fz: Tensor) -> list[Any]:
        """|f(z) - z| and |f(z)|, or what takes its place."""
        if self.unit is None:
            return self.place.take(sample_norms(change), sample_norms(fz))
        return [*self.place.take(sample_norms(change)), self.unit]

    def _whole(self, x: Any) -> Any:
        """(b,) to (B,), zero for samples that have left: they are not active."""
        whole = np.zeros(self.best.shape, dtype=x.dtype)
        whole[self.rows] = x
        return whole

    def present(self, mask: Any) -> Flags:
        """The rows still computed of a (B,) mask."""
        flags: Flags = mask if self.rows is None else mask[self.rows]
        return flags

    def take(self, index: Tensor) -> None:
        """Go on with the samples `index` of those present."""
        chosen = index.cpu().numpy()
        self.rows = chosen if self.rows is None else self.rows[chosen]

    def solution(self, value: Tensor, evals: int) -> Solution:
        """What is known after `evals` evaluations; `value` is the best state."""
        where, limit = self.where, int(Status.MAX_EVALS)
        status = where((self.status == limit) & (self.best <= self.floor), int(Status.CONVERGED), self.status)
        if evals > 3:  # three evaluations or fewer say nothing about a trend
            stuck = (status == limit) & (2 * self.best_eval < evals - 1)
            status = where(stuck, int(Status.STAGNATED), status)
        used = where(self.last_eval < evals, self.last_eval, evals - 1) + 1
        facts = (self.best, self.trace[:evals], self.best_eval, status, used)
        best, trace, best_eval, status, used = map(self.place.tensor, facts)
        return Solution(value, best, trace, evals, best_eval, status, used)
