import pytest

from fastload.tools.bench.ratios import compare, geometric_mean


def test_few_pairs_give_the_smallest_ratio_as_bound():
    """With fewer than five pairs the bound is the smallest pairwise ratio."""
    ratio = compare([10, 10, 10], [20, 30, 25])
    assert (ratio.median, ratio.lower, ratio.pairs) == (2.5, 2.0, (2.0, 3.0, 2.5))


def test_many_pairs_give_a_bootstrap_bound():
    """With five pairs or more the bound lies between the smallest ratio and the median."""
    ratio = compare([10] * 9, [1, 20, 20, 21, 22, 23, 24, 24, 90])
    assert ratio.lower == 2.0
    assert ratio.median == 2.2


def test_bound_is_the_same_every_time():
    """The bootstrap draws from a fixed seed."""
    rates = [11, 12, 13, 14, 15, 16, 17]
    assert compare([10] * 7, rates) == compare([10] * 7, rates)


def test_geometric_mean_multiplies():
    """A ratio of two and one of one half cancel out; of nothing there is no mean."""
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert geometric_mean([]) is None
