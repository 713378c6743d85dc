"""Ratios of times in one process that a wrong kernel or a second sweep would break by far more than noise."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ifpn.solvers import Broyden, solve
from ifpn.solvers.batched import inner_products


def fastest(run: Callable[[], object]) -> float:
    """Processor time of the best of nine runs, after one to warm up: other processes cannot make it smaller."""
    run()
    times = []
    for _ in range(9):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def test_dots_read_the_history_at_the_speed_of_a_plain_read() -> None:
    """45 MB, beyond most caches. The other orientation of the product is ten times slower on some CPUs."""
    history, x = torch.randn(2, 8, 700_000), torch.randn(2, 700_000)
    assert fastest(lambda: inner_products(history, x)) <= 3 * fastest(lambda: torch.linalg.vector_norm(history, dim=2))


def plain_iteration(values: list[Tensor], z: Tensor) -> Tensor:
    """z <- f(z) with residuals and the best state kept, as one writes it at first."""
    best, lowest = z.clone(), torch.full((len(z), 1), torch.inf)
    for value in values:
        residual = (value - z).norm(dim=1, keepdim=True) / value.norm(dim=1, keepdim=True)
        best = torch.where(residual < lowest, z, best)
        lowest = torch.minimum(lowest, residual)
        z = value.clone()
    return best


def test_fifteen_broyden_iterations_cost_at_most_four_times_plain_iteration() -> None:
    """Without f, which costs the same for both: its values are made beforehand."""
    z0 = torch.zeros(2, 200_000)
    values = [0.5**k * torch.randn(z0.shape) for k in range(16)]

    def broyden() -> None:
        given = iter(values)
        solve(lambda z: next(given), z0, Broyden(), max_evals=16)

    assert fastest(broyden) <= 4 * fastest(lambda: plain_iteration(values, z0))
