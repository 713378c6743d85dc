"""A ratio of processor times that a wrong kernel would break by far more than noise."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

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
