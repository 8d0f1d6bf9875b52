"""Replaying recorded batches gives what arithmetic gives where that is easy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.tools.profile.replay import Load, replay
from fastload.tools.profile.report import Schedule, Setting
from fastload.tools.profile.spread import at_a_time, divide


def load(wait=0.0, cpu=0.0, *, step=0.0, take=0.0, cores=64.0, batches=100, **more):
    each = np.ones(batches)
    return Load(
        wait_s=wait * each,
        cpu_s=cpu * each,
        inline_wait_s=wait * each,
        inline_cpu_s=cpu * each,
        take_s=take,
        transit_s=0.0,
        step_s=step,
        step_cpu_s=0.0,
        samples=10.0,
        cores=cores,
        **more,
    )


def rate(load, workers, factor=2, schedule=None, **options):
    setting = Setting(workers, factor, schedule or Schedule())
    return replay(load, setting, **options).samples_per_s


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_that_wait_add_up(workers):
    """Each gives a batch in 100 ms, whatever the cores."""
    assert rate(load(wait=0.1, cores=1.0), workers) == pytest.approx(100 * workers, rel=0.03)


def test_workers_that_compute_share_the_cores():
    """Four workers on two cores are worth two."""
    assert rate(load(cpu=0.1, cores=2.0), 4) == pytest.approx(200, rel=0.05)


def test_other_programs_take_their_share():
    """Two workers beside two other processes on two cores are worth one."""
    alone = rate(load(cpu=0.1, cores=2.0), 2)
    assert rate(load(cpu=0.1, cores=2.0, others=2.0), 2) == pytest.approx(alone / 2, rel=0.1)


def test_the_step_is_the_limit_where_workers_are_faster():
    """A batch every 50 ms, and the loop hardly waits."""
    outcome = replay(load(wait=0.01, step=0.05), Setting(2, 2))
    assert outcome.samples_per_s == pytest.approx(200, rel=0.03)
    assert outcome.stall_share < 0.01


def test_a_consumer_that_sleeps_waits_for_a_core_behind_many_workers():
    """Two workers leave it one when it wakes up, three do not: a step of 2 ms then takes longer."""
    computing = load(cpu=0.003, step=0.002, cores=2.0)
    assert rate(computing, 2, 8) == pytest.approx(5000, rel=0.03)
    assert rate(computing, 3, 8) == pytest.approx(10 / 0.00275, rel=0.03)
    assert rate(load(wait=0.003, step=0.002, cores=2.0), 8, 8) == pytest.approx(5000, rel=0.03)


def test_the_stall_is_what_the_step_leaves():
    """One worker gives a batch in 100 ms, the step takes 40 of them."""
    assert replay(load(wait=0.1, step=0.04), Setting(1, 2)).stall_share == pytest.approx(
        0.6, abs=0.02
    )


def test_without_workers_loading_and_step_take_turns():
    """60 ms and 40 ms make 100."""
    outcome = replay(load(cpu=0.06, step=0.04), Setting(0, 0))
    assert outcome.samples_per_s == pytest.approx(100)
    assert outcome.stall_share == pytest.approx(0.6)


def test_taking_over_batches_is_the_consumers_time():
    """However many workers there are, 20 ms of taking a batch over is the limit."""
    assert rate(load(wait=0.01, take=0.02), 16) == pytest.approx(500, rel=0.05)


def test_a_slow_batch_holds_up_those_behind_it_and_prefetching_helps():
    """Arithmetic on means does not see it; with more batches ahead it hurts less."""
    slow = load(wait=0.01, step=0.01)
    slow.wait_s[::10] = 0.2
    mean = float(slow.wait_s.mean())
    few, many = rate(slow, 4, 2), rate(slow, 4, 8)
    assert few < many < 10 / max(mean / 4, 0.01) * 1.01
    assert rate(slow, 4, 2, in_order=False) > 1.1 * few


def test_without_stragglers_only_the_slow_batches_shrink():
    """To what the others take."""
    is_slow = np.arange(100) == 3
    slow = load(wait=0.01, is_slow=is_slow)
    slow.wait_s[3] = 1.0
    clipped = slow.without_stragglers().wait_s
    assert clipped[3] == pytest.approx(0.01)
    assert clipped[4] == pytest.approx(0.01)


def test_few_recorded_batches_are_repeated():
    """Three batches are enough to replay."""
    assert rate(load(wait=0.1, batches=3), 2) == pytest.approx(200, rel=0.03)


def test_contention_makes_computing_slower_for_more_workers():
    """A tenth for each further core."""
    assert rate(load(cpu=0.1, contention=0.1), 2) == pytest.approx(200 / 1.1, rel=0.03)


@pytest.mark.parametrize("in_order", [True, False])
def test_short_epochs_begin_without_a_batch_ready(in_order):
    """One worker, four batches an epoch: the first is waited for, the rest come while steps run."""
    short = load(wait=0.1, step=0.1, epoch_batches=4)
    found = replay(short, Setting(1, 2), in_order=in_order)
    assert found.samples_per_s == pytest.approx(4 * 10 / 0.5)
    assert found.stall_share == pytest.approx(0.1 / 0.5)
    assert rate(load(wait=0.1, step=0.1, epoch_batches=10_000), 1) == pytest.approx(100, rel=0.03)


def test_workers_that_share_a_queue_do_not_wait_behind_a_slow_batch():
    """The task behind it goes to whoever is idle; without slow batches nothing changes."""
    shared = Schedule(is_shared=True)
    slow = load(wait=0.01)
    slow.wait_s[::10] = 0.1
    assert rate(slow, 4, 8, shared) > 1.05 * rate(slow, 4, 8)
    even = load(wait=0.01)
    assert rate(even, 4, 2, shared) == pytest.approx(rate(even, 4, 2), rel=0.03)


def test_parts_bring_the_first_batch_sooner():
    """Five workers on one batch of ten samples: an epoch of one batch takes a fifth of it."""
    first = load(wait=0.1, epoch_batches=1)
    parts = Schedule(is_shared=True, workers_per_batch=5)
    assert rate(first, 5, schedule=parts) == pytest.approx(10 / 0.02, rel=0.2)
    chosen = Schedule(is_shared=True, workers_per_batch="auto")
    assert rate(first, 5, schedule=chosen) > 3 * rate(first, 5)


def test_collating_is_the_work_of_whoever_loads_the_last_part():
    """It is not cut: 100 ms of samples by five workers, and 100 ms of collating by one."""
    collated = load(cpu=0.2, epoch_batches=1, fetch_cpu_s=0.1)
    parts = Schedule(is_shared=True, workers_per_batch=5)
    assert rate(collated, 5, schedule=parts) == pytest.approx(10 / 0.12, rel=0.05)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_samples_that_load_at_a_time_wait_together(workers):
    """Ten samples that wait 10 ms each are there after 10 ms, or a little more."""
    at_once = Schedule(concurrent_samples=10)
    found = rate(load(wait=0.1), workers, 2 if workers else 0, at_once)
    assert 0.6 < found / (max(1, workers) * 10 / 0.01) <= 1


def test_samples_that_load_at_a_time_compute_one_after_another():
    """However many wait at a time, a batch takes the CPU time of all its samples."""
    both = load(wait=0.1, cpu=0.1)
    assert rate(both, 1, schedule=Schedule(concurrent_samples=10)) <= 100.1
    assert rate(load(cpu=0.1), 1, schedule=Schedule(concurrent_samples=10)) <= rate(
        load(cpu=0.1), 1
    )


def test_threads_hand_nothing_over_and_compute_one_at_a_time():
    """20 ms of taking over are gone; four threads that compute are worth one."""
    threads = Schedule(worker_method="thread")
    assert rate(load(wait=0.01, take=0.02), 4, schedule=threads) > 2 * rate(load(take=0.02), 4)
    assert rate(load(cpu=0.1), 4, schedule=threads) == pytest.approx(100, rel=0.03)


@given(
    waits=st.lists(st.floats(0, 1), min_size=1, max_size=50),
    samples=st.integers(1, 9),
    most=st.integers(1, 12),
)
def test_samples_of_a_batch_wait_as_long_as_the_batch(waits, samples, most):
    """One after another they take what was recorded; at a time, never less than their share."""
    whole = np.array(waits)
    divided = divide(whole, samples)
    assert divided.sum(axis=1) == pytest.approx(whole, abs=1e-9)
    assert (divided >= 0).all()
    together = at_a_time(divided, most)
    assert (together <= whole + 1e-9).all()
    assert (together * most >= whole - 1e-9).all()


def test_how_unevenly_samples_wait_follows_from_how_unevenly_batches_do():
    """Exponentially distributed waiting of 4 ms; nothing else is recorded than sums of sixteen."""
    batches = np.random.default_rng(1).exponential(0.004, (500, 16)).sum(axis=1)
    divided = divide(batches, 16)
    assert divided.std() == pytest.approx(0.004, rel=0.15)
    assert at_a_time(divided, 16).mean() == pytest.approx(0.004 * 3.38, rel=0.1)
