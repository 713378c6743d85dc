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


def test_contraction_penalty_of_a_turn() -> None:
    """The column sums of [[c, -s], [s, c]] are c + s and c - s."""
    for radius in (0.6, 1.2):
        neck = linear(radius, contraction_penalty=0.5, contraction_margin=0.9)
        neck(features(batch=3))
        (found,) = neck.auxiliary_losses.values()
        number = neck.g.get_parameter("csc.number")
        c, s = number
        expected = 0.5 * ((c + s - 0.9).clamp_min(0) ** 2 + (c - s - 0.9).clamp_min(0) ** 2) / 2
        torch.testing.assert_close(found, expected)
        for ours, theirs in zip(*(torch.autograd.grad(loss, number) for loss in (found, expected)), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert list(neck.auxiliary_losses) == ["contraction"]
    neck.eval()(features(batch=3))
    assert neck.auxiliary_losses == {}


@pytest.mark.slow
def test_penalties_come_in_a_share_of_the_steps_at_full_weight() -> None:
    neck = linear(1.2, contraction_penalty=0.5, jacobian_penalty=0.1, jacobian_every=0.25)
    full = linear(1.2, contraction_penalty=0.5)
    full(features(batch=3))
    seen: list[bool] = []
    for seed in range(100):
        torch.manual_seed(seed)
        neck(features(batch=3))
        losses = dict(neck.auxiliary_losses)
        assert list(losses) in ([], ["jacobian", "contraction"])
        seen.append(bool(losses))
        if losses:
            torch.testing.assert_close(losses["contraction"], full.auxiliary_losses["contraction"])
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
