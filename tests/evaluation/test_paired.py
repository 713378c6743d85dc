"""Student's interval, exact power, and the bootstrap over images for several pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ifpn.evaluation import ScoredMatches
from ifpn.evaluation.bootstrap import paired_bootstrap, resampled_ap
from ifpn.evaluation.ground_truth import GroundTruth
from ifpn.evaluation.paired import images_interval, paired_difference, pairs_needed
from tests.evaluation.cases import random_case


def test_students_interval_of_three_pairs() -> None:
    found = paired_difference([20.0, 20.0, 21.0], [23.0, 20.0, 21.5])
    assert found.n == 3
    assert found.mean == pytest.approx(-3.5 / 3)
    low, high = found.interval(0.95) or (0.0, 0.0)
    # 4.303 is the 97.5 % point of t with two degrees of freedom, from any table.
    half = 4.303 * np.std([-3.0, 0.0, -0.5], ddof=1) / math.sqrt(3)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-3)
    assert (high + low) / 2 == pytest.approx(found.mean)


def test_one_pair_has_no_interval() -> None:
    found = paired_difference([1.0], [2.0])
    assert (found.mean, found.sd, found.interval(0.95)) == (-1.0, None, None)
    with pytest.raises(ValueError, match="no pair"):
        paired_difference([], [])


@pytest.mark.parametrize(
    ("sd", "effect", "power", "pairs"),
    [(1.6, 4.0, 0.8, 4), (1.6, 1.0, 0.8, 23), (1.6, 0.4, 0.8, 128), (1.6, 1.0, 0.9, 29), (1.0, 2.0, 0.8, 5)],
)
def test_pairs_needed_are_those_of_the_noncentral_t(sd: float, effect: float, power: float, pairs: int) -> None:
    # Computed once by integrating the noncentral t; the next test checks one of them by simulation.
    assert pairs_needed(sd, effect, power) == pairs


def test_power_is_what_a_simulation_finds() -> None:
    n, draws = pairs_needed(1.0, 1.0), 20_000
    sample = np.random.default_rng(0).normal(1.0, 1.0, (draws, n))
    t = sample.mean(axis=1) / (sample.std(axis=1, ddof=1) / math.sqrt(n))
    # 2.262: t with 9 degrees of freedom; n = 10 is what the tables give for a ratio of 1
    assert n == 10
    assert np.mean(np.abs(t) > 2.262) == pytest.approx(0.803, abs=0.01)


def test_images_are_drawn_once_for_all_pairs() -> None:
    truth, found = random_case(3)
    other = random_case(3)[1][: len(found) // 2]
    ground = GroundTruth.load(truth)
    matches = ScoredMatches(ground, found), ScoredMatches(ground, other)
    one = paired_bootstrap(*matches, resamples=50)
    a, b = (resampled_ap(each, 50) for each in matches)
    assert images_interval([(a, b)]) == pytest.approx((one.low, one.high))
    # The same pair twice has the mean of the same differences; a pair and its mirror cancel in every draw.
    assert images_interval([(a, b), (a, b)]) == pytest.approx((one.low, one.high))
    assert images_interval([(a, b), (b, a)]) == pytest.approx((0.0, 0.0), abs=1e-12)
    with pytest.raises(ValueError, match="one number"):
        images_interval([(a, b[:10])])
