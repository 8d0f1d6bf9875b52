"""Nothing is advised whose gain is within the noise of what was measured."""

import math
import threading

import pytest

import fastload
from fastload.tools.profile.advice import within
from fastload.tools.profile.contest import Contender, compete
from fastload.tools.profile.grid import recommend
from fastload.tools.profile.plan import Plan
from fastload.tools.profile.profiler import profile
from fastload.tools.profile.report import Fix, Setting, Verification
from fastload.tools.profile.trials import run_trial
from tests.tools.profile.loads import make

OWN = Verification(Setting(2, 2), 100, 100, 0.1, 0.1, 50)


class Few:
    """Three batches an epoch; a sample takes 2 ms."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        threading.Event().wait(0.002)
        return index


def ran(workers, prefetch=2, *, predicted=1.0, gain=1.0, least=1.0):
    setting = Setting(workers, prefetch)
    return Verification(setting, 100 * predicted, 100, 0, 0, 50, predicted, gain, least)


def test_a_setting_that_is_faster_in_every_round_is_recommended():
    """The smallest of those that are as good as the best."""
    faster = (ran(4, predicted=2, gain=2.0, least=1.8), ran(8, predicted=2, gain=2.02, least=1.9))
    assert recommend((OWN, *faster)) == Setting(4, 2)
    assert faster[0].is_gain


@pytest.mark.parametrize(
    "other",
    [
        ran(4, predicted=1.3, gain=1.26, least=0.98),  # one round did not show it
        ran(4, 8, predicted=1.0, gain=1.26, least=1.2),  # nothing explains it
        ran(1, predicted=1.0, gain=0.99, least=0.9),  # smaller, but it may be slower
    ],
)
def test_a_gain_that_may_be_noise_changes_nothing(other):
    """The loader's own setting stays."""
    assert recommend((OWN, other)) == OWN.setting
    assert not other.is_gain


def test_a_smaller_setting_that_is_as_good_is_recommended_but_is_no_gain():
    """Fewer processes for the same throughput."""
    smaller = ran(1, gain=1.01, least=0.99)
    assert recommend((OWN, smaller)) == Setting(1, 2)
    assert not smaller.is_gain


def test_contenders_run_in_turn_and_are_compared_within_each_round():
    """Every second round goes the other way about, so that a drift favours nobody."""
    order = []
    loader = make("computing", "fastload")
    plan = Plan(loader, "computing", budget_s=1.0, tell=order.append, limit_s=math.inf)
    own, other = Contender("fastload", Setting(2, 2)), Contender("fastload", Setting(0, 0))
    found = compete(plan, [own, other], startup_s=0.0)
    ours, without = "fastload: 2 workers, prefetch_factor 2", "fastload: without workers"
    assert order == [ours, without, without, ours, ours, without]
    assert found[own].gains == (1.0, 1.0, 1.0)
    rates = zip(found[own].trials, found[other].trials, strict=True)
    assert found[other].gains == tuple(b.samples_per_s / a.samples_per_s for a, b in rates)


def test_a_profile_whose_time_is_up_still_says_what_it_knows():
    """The trials that everything follows from are run, and nothing after them."""
    order = []
    plan = Plan(make("waiting", "torch"), "waiting", budget_s=1.0, tell=order.append, limit_s=0.2)
    found = profile(plan)
    assert "torch: without workers" in order
    assert "torch: 2 workers, prefetch_factor 2" in order
    assert not any(words.startswith("fastload") for words in order)
    assert [each.setting for each in found.verified] == [found.setting]
    assert found.recommended == found.setting
    assert found.verdict.samples_per_s == found.verified[0].measured_samples_per_s > 0


def test_what_does_not_fit_into_the_time_is_not_begun():
    """Settings of which starting the workers alone would take longer."""
    plan = Plan(make("waiting", "fastload"), "waiting", budget_s=1.0, limit_s=math.inf)
    assert plan.fits([Setting(64, 2)], parts=10)
    plan = Plan(make("waiting", "fastload"), "waiting", budget_s=1.0, limit_s=100.0)
    assert plan.fits([Setting(64, 2)], parts=10)
    assert not plan.fits([Setting(64, 2)] * 101, parts=10)
    assert Plan(make("waiting", "fastload"), "waiting", budget_s=20.0).limit_s < 30


def test_no_estimate_is_beyond_an_ideal_loader():
    """What the loop never waits for cannot be gained; a measured gain is what it is."""
    estimated = Fix("a", "b", 5.0, "estimated", "c")
    measured = Fix("a", "b", 5.0, "measured", "c")
    assert within(estimated, 1.25).gain == 1.25
    assert within(estimated, None).gain == 5.0
    assert within(measured, 1.25).gain == 5.0


def test_short_epochs_count_from_their_beginning():
    """Where queues are deeper than an epoch is long, all of it would else be there already."""
    loader = fastload.DataLoader(Few(), batch_size=4)
    found = run_trial(loader, Setting(1, 8), "fastload", lambda _: None, 0.3)
    assert len(found.epochs) - len(found.short) in {1, 2}  # the first one; one that was cut
    assert all(samples == 12 and elapsed >= 12 * 2e6 for samples, elapsed, _ in found.short)
    assert found.samples_per_s < 500
    assert 0 < found.stall_share <= 1
