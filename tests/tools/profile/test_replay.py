"""Replaying recorded batches gives what arithmetic gives where that is easy."""

import numpy as np
import pytest

from fastload.tools.profile.replay import Load, replay
from fastload.tools.profile.report import Setting


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


def rate(load, workers, factor=2, **options):
    return replay(load, Setting(workers, factor), **options).samples_per_s


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
