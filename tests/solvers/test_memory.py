"""Memory and traffic, counted rather than timed: no clock, so no noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from ifpn.solvers import Anderson, Broyden, Forward, Picard, fixed_point, solve

from .problems import ConvBlock


def peak(run: Callable[[], object], folder: Path) -> int:
    """Peak of the bytes that torch holds during run(), above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    return max(accumulate(change for _, change in changes))


@pytest.mark.parametrize(("rule", "bar"), [(Broyden(), 20), (Anderson(5), 14), (Picard(), 5)], ids=repr)
def test_peak_memory_in_states(rule: Broyden | Anderson | Picard, bar: float, tmp_path: Path) -> None:
    """All that 15 iterations of DEQ's Broyden, 16 evaluations, allocate: temporaries and the value of f included."""
    z0 = torch.ones(2, 100_000)
    bytes_ = peak(lambda: solve(lambda z: 0.5 * z, z0, rule, max_evals=16), tmp_path)
    states = bytes_ / (z0.numel() * z0.element_size())
    assert bar - 2 < states <= bar  # the lower bound: the measurement works


def test_memory_for_the_backward_does_not_grow_with_the_budget() -> None:
    block, x = ConvBlock(), torch.randn(2, 8, 6, 6)

    def saved(evals: int) -> int:
        total = 0

        def pack(t: Tensor) -> Tensor:
            nonlocal total
            total += t.numel() * t.element_size()
            return t

        with saved_tensors_hooks(pack, lambda t: t):
            y, _ = fixed_point(lambda z: block(z + x), torch.zeros_like(x), forward=Forward(Broyden(), evals))
            assert y.requires_grad
        return total

    assert saved(3) == saved(50) > 0


class Traffic(TorchDispatchMode):
    """Counts the whole states that operations read and write."""

    def __init__(self, state: int) -> None:
        super().__init__()
        self.state = state
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # Views and allocations move nothing.
        if not func.is_view and "empty" not in str(func) and "_unsafe_view" not in str(func):
            named = [v for k, v in (kwargs or {}).items() if k != "out"]
            for t in [*args, *named, out]:
                if isinstance(t, Tensor):
                    self.moved += t.numel() // self.state
        return out


@pytest.mark.parametrize(
    ("rule", "bar"),
    # 2k + 12 transfers at step k of Broyden, so 26 on average over k = 0..14; 2m + 10 of Anderson; Picard 8.
    [(Broyden(), 27), (Anderson(5), 21), (Picard(), 9)],
    ids=repr,
)
def test_every_stored_vector_is_read_twice_per_iteration_and_no_more(
    rule: Broyden | Anderson | Picard, bar: int
) -> None:
    z0 = torch.zeros(1, 10_000)
    values = [0.5**k * torch.randn(1, 10_000) for k in range(16)]
    count = iter(values)
    with Traffic(10_000) as traffic:
        solve(lambda z: next(count), z0, rule, max_evals=16)
    assert 5 < traffic.moved / 15 <= bar
