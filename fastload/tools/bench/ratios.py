"""Condense pairs of runs into one ratio, and say how low it may really be."""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_RESAMPLES = 2_000
_PAIRS_FOR_BOOTSTRAP = 5


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster the candidate is.

    Attributes:
        median: of the pairwise ratios.
        lower: with at least five pairs the lower end of the median's 95 % bootstrap interval;
            with fewer the smallest ratio.
        pairs: the ratio of each pair, in order.
    """

    median: float
    lower: float
    pairs: tuple[float, ...]


def compare(baseline: Sequence[float], candidate: Sequence[float]) -> Ratio:
    """Compare rates measured in turn: `baseline[i]` just before `candidate[i]`.

    Percentile bootstrap of the median (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, chapter 13), with a fixed seed.

    Example:
        >>> compare([100.0, 110.0, 100.0], [200.0, 209.0, 210.0])
        Ratio(median=2.0, lower=1.9, pairs=(2.0, 1.9, 2.1))
    """
    pairs = tuple(after / before for before, after in zip(baseline, candidate, strict=True))
    return Ratio(statistics.median(pairs), _lower_bound(pairs), pairs)


def geometric_mean(values: Sequence[float]) -> float | None:
    """Return the geometric mean of values; None if there are none."""
    if not values:
        return None
    return math.exp(statistics.fmean(math.log(value) for value in values))


def _lower_bound(pairs: Sequence[float]) -> float:
    if len(pairs) < _PAIRS_FOR_BOOTSTRAP:
        return min(pairs)
    generator = random.Random(0)
    medians = sorted(
        statistics.median(generator.choices(pairs, k=len(pairs))) for _ in range(_RESAMPLES)
    )
    return medians[int(0.025 * _RESAMPLES)]
