"""Losses of the neck itself against what they are for a linear G, and in how many steps they come."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ifpn.necks import ImplicitFPN
from tests.necks.cases import Turn, features


def linear(radius: float, **options: Any) -> ImplicitFPN:
    """G multiplies pairs of channels by c + i s."""
    neck = ImplicitFPN(
        [6, 8], 8, csc=lambda c, n: Turn(radius), residual_block=False, weight_norm=False, **options
    ).train()
    return neck


def test_jacobian_penalty_of_a_turn() -> None:
    """J multiplies by a turn and the radius, so |J'v|² is radius² |v|²: in the mean over v, weight x radius²."""
    torch.manual_seed(0)
    radius, weight, draws = 0.6, 0.5, 20
    neck = linear(radius, jacobian_penalty=weight)
    losses = []
    for _ in range(draws):
        neck(features(batch=3))
        (loss,) = neck.auxiliary_losses.values()
        losses.append(loss)
    number = neck.g.get_parameter("csc.number")
    found = torch.stack(losses).mean()
    # |v|² / N of one draw has the standard deviation sqrt(2 / N); N is 3 x 8 x 80, so 0.03 is four of the mean
    torch.testing.assert_close(found, weight * number.square().sum(), rtol=0.03, atol=0)
    ours, theirs = (torch.autograd.grad(loss, number)[0] for loss in (found, weight * number.square().sum()))
    torch.testing.assert_close(ours, theirs, rtol=0.03, atol=0)
    assert list(neck.auxiliary_losses) == ["jacobian"]
    neck.eval()(features(batch=3))
    assert neck.auxiliary_losses == {}


@pytest.mark.slow
def test_the_penalty_comes_in_a_share_of_the_steps_at_full_weight() -> None:
    neck = linear(1.2, jacobian_penalty=0.1, jacobian_every=0.25)
    seen: list[bool] = []
    for seed in range(100):
        torch.manual_seed(seed)
        neck(features(batch=3))
        losses = dict(neck.auxiliary_losses)
        assert list(losses) in ([], ["jacobian"])
        seen.append(bool(losses))
        if losses:  # 0.1 x 1.2², not a quarter of it
            torch.testing.assert_close(losses["jacobian"].item(), 0.144, rtol=0.3, atol=0)
        torch.manual_seed(seed)  # a resumed step draws the same
        neck(features(batch=3))
        again: dict[str, Tensor] = neck.auxiliary_losses
        assert list(again) == list(losses)
        assert all(torch.equal(again[name], loss) for name, loss in losses.items())
    assert 12 <= sum(seen) <= 40  # 25 of 100; three standard deviations are 13


def test_nothing_is_drawn_where_nothing_is_asked_for() -> None:
    """The option alone must not change the random numbers of a training."""
    neck = linear(0.5, jacobian_every=0.25)
    before = torch.get_rng_state()
    neck(features(batch=3))
    assert torch.equal(before, torch.get_rng_state())
