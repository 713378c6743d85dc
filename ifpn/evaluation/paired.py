"""Paired differences of AP: a t-interval over seeds, a bootstrap over images, and how many pairs an effect needs.

The two intervals speak of different chances, and neither contains the other's. The one over seeds says how much
another training would move the difference, on these very images. The one over images says how much other images of
the same kind would, with these very trainings.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ifpn.evaluation.bootstrap import Floats

EFFECTS = (4.0, 1.0, 0.4)  # AP: what an implicit pyramid is said to gain; a row of a table; the solver's part
MOST_PAIRS = 100_000


@dataclass(frozen=True)
class PairedDifference:
    """Mean of the differences of n pairs, with intervals of Student's t with n - 1 degrees of freedom.

    Attributes:
        mean: of the differences.
        sd: sample standard deviation of the differences; None for a single pair.
        n: number of pairs.
    """

    mean: float
    sd: float | None
    n: int

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """The two-sided interval of the mean; None for a single pair, which has no spread."""
        if self.sd is None:
            return None
        half = float(stats.t.ppf(0.5 + confidence / 2, self.n - 1)) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Of `a` less `b`, element by element.

    Raises:
        ValueError: no pair, or lengths that differ.
    """
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    if not gaps:
        raise ValueError("there is no pair to take a difference of")
    return PairedDifference(statistics.fmean(gaps), statistics.stdev(gaps) if len(gaps) > 1 else None, len(gaps))


def pairs_needed(sd: float, effect: float, power: float = 0.8, level: float = 0.05) -> int:
    """Pairs with which a two-sided paired t-test sees a true mean difference of `effect`.

    The power is exact: that of the noncentral t distribution.

    Args:
        sd: standard deviation of a paired difference.
        effect: size of the true mean difference, in the unit of `sd`.
        power: probability of a significant result.
        level: of the test.

    Raises:
        ValueError: an effect or a deviation that is not positive.
    """
    if effect <= 0 or sd <= 0:
        raise ValueError(f"effect={effect} and sd={sd} must be positive")
    low, high = 1, 2
    while high < MOST_PAIRS and _power(high, effect / sd, level) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, effect / sd, level) >= power else (middle, high)
    return high


def _power(n: int, ratio: float, level: float) -> float:
    """Of a two-sided paired t-test with n pairs whose true mean is `ratio` standard deviations."""
    limit, shift = stats.t.ppf(1 - level / 2, n - 1), ratio * math.sqrt(n)
    above = stats.nct.sf(limit, n - 1, shift)
    below = stats.nct.cdf(-limit, n - 1, shift)
    # Far from zero SciPy's lower tail can be nan where it is 0 to every digit.
    return float(above) + (float(below) if math.isfinite(below) else 0.0)


def images_interval(pairs: Sequence[tuple[Floats, Floats]], confidence: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval over images of the mean difference of several pairs of detectors.

    Args:
        pairs: (a, b): APs of `resampled_ap`, all of the same resamples of the same images.
        confidence: share of the resamples inside the interval.

    Raises:
        ValueError: no pair, different numbers of resamples or fewer than two, no boxes to be found.
    """
    sizes = {one.size for pair in pairs for one in pair}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"{len(pairs)} pairs with {sorted(sizes)} resamples: one number of at least 2")
    gaps = np.mean([a - b for a, b in pairs], axis=0)
    if not np.isfinite(gaps).any():
        raise ValueError("the annotations hold no box to be found, so there is no AP to compare")
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(gaps, [tail, 1 - tail])
    return float(low), float(high)
