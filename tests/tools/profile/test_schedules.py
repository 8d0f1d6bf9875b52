"""Options of fastload's scheduling are tried and advised where they help."""

import math
import random
import threading

import numpy as np
import pytest
import torch
import torch.utils.data
from torch.utils.data import IterableDataset, Subset

import fastload
from fastload.tools.profile.advice import make_fixes
from fastload.tools.profile.contest import Contender, compete
from fastload.tools.profile.grid import predict
from fastload.tools.profile.load import make_load
from fastload.tools.profile.plan import Cache, Plan, measure
from fastload.tools.profile.profiler import profile
from fastload.tools.profile.rebuild import rebuild, setting_of
from fastload.tools.profile.replay import Load
from fastload.tools.profile.report import Profile, Schedule, Setting, Verification
from fastload.tools.profile.schedules import samples_at_a_time, why_one_at_a_time
from fastload.tools.profile.situation import Situation
from tests.tools.profile.loads import make

KINDS = {"fastload": fastload.DataLoader, "torch": torch.utils.data.DataLoader}
AT_A_TIME = Schedule(concurrent_samples=8)


class Rows:
    def __init__(self, rows=64):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return index


class Random(Rows):
    def __getitem__(self, index):
        return random.random()


class Grouped(Rows):
    def __getitems__(self, indices):
        return list(indices)


class Single(Rows):
    """Raises where two threads call it at a time."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def __getitem__(self, index):
        if not self.lock.acquire(blocking=False):
            raise RuntimeError("one at a time, please")
        try:
            threading.Event().wait(0.001)
            return index
        finally:
            self.lock.release()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


def load(wait, cpu, *, samples=8.0, batches=100):
    each = np.ones(batches)
    parts = [wait * each, cpu * each] * 2
    return Load(*parts, 1e-4, 0, 0, 0, samples, cores=2.0, fetch_cpu_s=cpu)


def situation(loader, of, culprit, **more):
    given = {
        "setting": setting_of(loader),
        "samples_per_s": 100.0,
        "recommended": setting_of(loader),
        "verified": (),
        "failed": (),
        "as_fastload": None,
        "startup_s": 0.0,
        "epoch_batches": None,
        "headroom": None,
        "has_floats": False,
    }
    return Situation(loader=loader, load=of, culprit=culprit, **{**given, **more})


@pytest.mark.parametrize(
    ("wait", "cpu", "samples", "most"),
    [
        (0.16, 0.01, 8, 8),  # no more than a batch has
        (0.16, 0.04, 64, 4),
        (6.4, 0.01, 128, 64),  # no more than 64
        (0.01, 0.01, 8, 1),
        (0.0, 0.01, 8, 1),
    ],
)
def test_as_many_samples_wait_as_one_computes_for(wait, cpu, samples, most):
    """About the waiting over the CPU time of a sample, as a power of two."""
    assert samples_at_a_time(load(wait, cpu, samples=samples)) == most


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        (Rows(), None),
        (Subset(Rows(), [1, 2]), None),
        (Random(), "drew from Python's random"),
        (Grouped(), "one call of __getitems__"),
        (Subset(Grouped(), [1, 2]), "one call of __getitems__"),
        (Stream(), "is iterable"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_against_samples_at_a_time_is_said(kind, dataset, why):
    """Nothing where a map-style dataset draws nothing in its first sample."""
    found = why_one_at_a_time(KINDS[kind](dataset, batch_size=4))
    assert found is None if why is None else why in found


@pytest.mark.parametrize("kind", KINDS)
def test_waiting_is_answered_by_samples_at_a_time(kind):
    """With a number, a prediction, and what the dataset must be; no threads of one's own."""
    loader = make("waiting", kind)
    fixes = make_fixes(situation(loader, load(0.024, 0.0008), "fetch-wait"))
    (fix,) = [each for each in fixes if "concurrent_samples=8" in each.code]
    assert fix.basis == "replayed"
    assert 4 < fix.gain < 8.5
    assert "map-style and its first sample drew no random numbers" in fix.reason
    assert "Predicted with no more workers" in fix.reason
    assert ("fastload." in fix.code) == (kind == "torch")
    assert not any("ThreadPoolExecutor" in each.code for each in fixes)


def test_what_draws_is_told_to_follow_from_the_index_first():
    """The error that the loader would raise says what it draws from."""
    loader = fastload.DataLoader(Random(), batch_size=8, num_workers=2)
    fixes = make_fixes(situation(loader, load(0.024, 0.0008), "fetch-wait"))
    (fix,) = [each for each in fixes if "concurrent_samples=8" in each.code]
    assert fix.title.startswith("Make what is random a function of the index")
    assert "Python's random" in fix.reason


def test_what_was_tried_is_not_predicted():
    """The measurement decides, also where it failed."""
    loader = make("waiting", "fastload")
    failed = (Setting(2, 2, AT_A_TIME),)
    fixes = make_fixes(situation(loader, load(0.024, 0.0008), "fetch-wait", failed=failed))
    assert not any("concurrent_samples" in each.code for each in fixes)


def ran(setting, gain):
    return Verification(setting, 100 * gain, 100 * gain, 0, 0, 50, gain, gain, gain)


def test_what_was_faster_is_advised_beside_more_workers():
    """With what it gained, and what the dataset must bear."""
    loader = make("waiting", "fastload")
    own, more, at_a_time = Setting(2, 2), Setting(16, 2), Setting(2, 2, AT_A_TIME)
    verified = (ran(own, 1.0), ran(at_a_time, 5.0), ran(more, 6.0))
    of = load(0.024, 0.0008)
    fixes = make_fixes(situation(loader, of, "fetch-wait", verified=verified, recommended=more))
    assert [each.code for each in fixes[:2]] == [
        "DataLoader(..., num_workers=16, prefetch_factor=2)",
        "DataLoader(..., num_workers=2, prefetch_factor=2, concurrent_samples=8)",
    ]
    assert fixes[1].basis == "measured"
    assert "drew no random numbers" in fixes[1].reason


def straggling():
    slow = load(0.04, 0.0001)
    slow.wait_s[::12] = 0.2
    return slow


@pytest.mark.parametrize("seed", [None, 7])
def test_stragglers_are_answered_by_parts_of_batches(seed):
    """Without a seed it is said that one is needed, and what that changes."""
    loader = fastload.DataLoader(Rows(), batch_size=8, num_workers=4, seed=seed)
    fixes = make_fixes(situation(loader, straggling(), "stragglers"))
    (fix,) = [each for each in fixes if "workers_per_batch" in each.code]
    assert fix.gain > 1.03
    assert ("seed=0" in fix.code) == (seed is None)
    assert ("It needs seed=" in fix.reason) == (seed is None)


def test_a_first_batch_that_takes_most_of_an_epoch_is_answered_by_parts():
    """Two batches an epoch, each 100 ms; not where another batch is what takes the time."""
    loader = fastload.DataLoader(Rows(), batch_size=8, num_workers=8, seed=7)
    short = {"epoch_batches": 2, "samples_per_s": 160.0}
    fixes = make_fixes(situation(loader, load(0.1, 0.001), "fetch-wait", **short))
    assert any("workers_per_batch" in each.code for each in fixes)
    long = {"epoch_batches": 200, "samples_per_s": 160.0}
    fixes = make_fixes(situation(loader, load(0.1, 0.001), "fetch-wait", **long))
    assert not any("workers_per_batch" in each.code for each in fixes)


def test_no_parts_are_advised_where_no_seed_can_be():
    """A generator of the loader excludes it."""
    loader = fastload.DataLoader(Rows(), batch_size=8, num_workers=2, generator=torch.Generator())
    fixes = make_fixes(situation(loader, straggling(), "stragglers"))
    assert not any("workers_per_batch" in each.code for each in fixes)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"seed": 3, "shuffle": True},
        {"seed": 3, "sampler": range(20)},
        {"seed": 3, "shuffle": True, "workers_per_batch": 2},
        {"concurrent_samples": 4},
        {"worker_method": "thread"},
        {"on_error": "skip"},
    ],
)
def test_trials_load_what_the_loader_does(options, workers):
    """With the same options, and at any other schedule in the same order."""
    ours = fastload.DataLoader(Rows(), batch_size=5, num_workers=2, **options)
    expected = [each.tolist() for each in ours]
    setting = setting_of(ours)
    for schedule in (setting.schedule, Schedule(concurrent_samples=2)):
        again = rebuild(ours, Setting(workers, 2 if workers else 0, schedule), "fastload")
        with again:
            assert [each.tolist() for each in again] == expected
    assert (setting.schedule.is_shared, setting.schedule.workers_per_batch) == (
        "seed" in options,
        options.get("workers_per_batch", 1),
    )


def test_a_schedule_is_tried_beside_more_workers():
    """Where samples wait: predicted for all numbers of workers, and run for real in turn."""
    plan = Plan(make("waiting", "fastload"), "waiting", budget_s=1.5, limit_s=math.inf)
    found = profile(plan)
    assert any(each.setting.schedule == AT_A_TIME for each in found.what_if)
    assert any(each.setting.schedule == AT_A_TIME for each in found.verified)
    assert any(each.setting.schedule == Schedule() for each in found.verified[1:])
    assert Profile.from_json(found.to_json()) == found


def test_torchs_loader_is_tried_at_what_it_has():
    """Workers and prefetching."""
    plan = Plan(make("waiting", "torch"), "waiting", budget_s=1.0, limit_s=math.inf)
    measured = measure(plan, Cache())
    grid = predict(plan, measured, make_load(measured, 2.0, 0.0))
    assert {each.setting.schedule for each in grid} == {Schedule()}


def test_a_dataset_that_bears_no_threads_is_profiled_all_the_same():
    """What it raises is told, and the other settings go on."""
    plan = Plan(fastload.DataLoader(Single(), batch_size=8), "single", budget_s=1.0)
    own, other = Setting(0, 0), Setting(0, 0, AT_A_TIME)
    found = compete(plan, [Contender("fastload", own), Contender("fastload", other)], 0.0)
    assert list(found) == [Contender("fastload", own)]
    assert "one at a time, please" in plan.failed[other]


def test_an_error_of_the_loader_as_it_is_comes_through():
    """It is no question of how it is scheduled."""
    plan = Plan(
        fastload.DataLoader(Single(), batch_size=8, concurrent_samples=8), "single", budget_s=1.0
    )
    with pytest.raises(RuntimeError, match="one at a time"):
        compete(plan, [Contender("fastload", setting_of(plan.loader))], 0.0)
