"""The numbers per sample are the same in NumPy and as tensors on a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ifpn.solvers import GMRES, Anderson, Broyden, Forward, Implicit, Neumann, Picard, Solution, fixed_point
from ifpn.solvers.adjoint import LinearSolver
from ifpn.solvers.per_sample import Place

from .problems import inputs, matrix, tanh_map

GAIN = torch.tensor([0.0, 0.3, 0.9, 3.0, torch.nan])[:, None]  # at once, soon, late, never, not at all


def run(rule: Broyden | Anderson | Picard, how: LinearSolver, rtol: float) -> tuple[list[Tensor], list[Solution]]:
    x = inputs(5, 6).float().requires_grad_()
    f = tanh_map(matrix(6, 1.0).float(), x)
    forward, backward = Forward(rule, 9, rtol), Implicit(how, 6, rtol)
    value, stats = fixed_point(lambda z: f(GAIN * z), torch.zeros(5, 6), forward=forward, backward=backward)
    value.square().sum().backward()
    assert x.grad is not None
    assert stats.backward is not None
    return [value.detach(), x.grad], [stats.forward, stats.backward]


@pytest.mark.parametrize("rtol", [0.0, 1e-3])
@pytest.mark.parametrize("how", [GMRES(), Neumann(), Anderson(2)], ids=repr)
@pytest.mark.parametrize("rule", [Broyden(), Anderson(), Anderson(2, beta=0.5), Picard(0.7)], ids=repr)
def test_on_the_host_and_on_the_device(
    rule: Broyden | Anderson | Picard, how: LinearSolver, rtol: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, host_solutions = run(rule, how, rtol)
    monkeypatch.setattr(Place, "of", classmethod(lambda cls, state, tolerant: cls(state.device, host=False)))
    device, device_solutions = run(rule, how, rtol)
    # two libraries solve Anderson's small systems: their float64 answers differ in the last digits
    torch.testing.assert_close(host, device, rtol=1e-5, atol=1e-6)
    for a, b in zip(host_solutions, device_solutions, strict=True):
        torch.testing.assert_close(a.trace, b.trace, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(a.residual, b.residual, rtol=1e-4, atol=1e-6)
        assert a.evals == b.evals
        torch.testing.assert_close(a.status, b.status, rtol=0, atol=0)  # types, too
        torch.testing.assert_close(a.best_eval, b.best_eval, rtol=0, atol=0)


@pytest.mark.parametrize("host", [True, False])
def test_a_singular_sample_does_not_touch_the_others(host: bool) -> None:
    place = Place(torch.device("cpu"), host)
    a = np.stack([np.eye(2), np.ones((2, 2)), np.full((2, 2), np.nan)])
    b = np.array([[[1.0], [2.0]]] * 3)
    x = place.solve(*(v if host else torch.from_numpy(v) for v in (a, b)))
    assert x[0, :, 0].tolist() == [1.0, 2.0]
    assert not np.isfinite(np.asarray(x[1:])).any(axis=(1, 2)).any()


def test_numbers_arrive_in_a_precision_that_the_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some accelerators have no float64; NumPy's numbers are float64."""
    place = Place(torch.device("cpu"), host=True)
    assert place.tensor(np.ones(2)).dtype == torch.float64
    monkeypatch.setattr("ifpn.solvers.per_sample.accumulation_dtype", lambda device: torch.float32)
    assert place.tensor(np.ones(2)).dtype == torch.float32
    assert place.tensor(np.ones(2, dtype=np.int64)).dtype == torch.int64
