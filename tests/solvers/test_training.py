"""A small net, 250 steps with every offered backward: the loss stays finite and the gradient sane."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from ifpn.solvers import (
    GMRES,
    Anderson,
    Broyden,
    Forward,
    Implicit,
    Neumann,
    OneStep,
    Phantom,
    Unrolled,
    fixed_point,
)
from ifpn.solvers.fixed_point import Backward

BACKWARDS: list[Backward] = [
    Implicit(GMRES(), 5),
    Implicit(Neumann(), 5),
    Implicit(Broyden(), 5),
    Implicit(Anderson(), 5),
    Unrolled(3),
    Phantom(3, 0.5),
    OneStep(),
]


@pytest.mark.parametrize("backward", BACKWARDS, ids=repr)
@pytest.mark.slow
def test_250_steps_end_finite(backward: Backward) -> None:
    # The rate is high, so that training drives the spectral radius up to about 1.
    torch.manual_seed(0)
    size = 24
    inner, outer = nn.Linear(size, size), nn.Linear(size, size)
    with torch.no_grad():
        inner.weight.normal_(0, 1.0 / size**0.5)
        outer.weight.normal_(0, 1.0 / size**0.5)
    parameters = [*inner.parameters(), *outer.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=5e-3)
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(size, size, generator=generator) / size**0.5
    losses, norms = [], []
    for _ in range(250):
        x = torch.randn(16, size, generator=generator)
        z, _ = fixed_point(
            lambda z, x=x: outer(torch.relu(inner(z + x))),
            torch.zeros_like(x),
            forward=Forward(Anderson(), 9),
            backward=backward,
        )
        loss = mse_loss(z, torch.relu(x @ mixing) @ mixing)
        optimiser.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(parameters, 5.0)))
        losses.append(loss.item())
        optimiser.step()
    assert torch.isfinite(torch.tensor(losses)).all()
    assert max(norms) < 1e3
    # It learned something: the zero function has a loss of about 0.5.
    assert sum(losses[-25:]) < 0.5 * sum(losses[:25])
