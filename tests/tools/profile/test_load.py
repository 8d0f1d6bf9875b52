"""What trials say about a load, where a computed timeline says what is true."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload._system.cores import Cores
from fastload.stats.rows import Row
from fastload.tools.profile.judge import (
    find_costs,
    make_breakdown,
    make_resources,
    make_verdict,
    own_speed,
)
from fastload.tools.profile.load import find_taking, make_load, without_core_wait
from fastload.tools.profile.replay import MOST_REPLAYED, Load, replay
from fastload.tools.profile.report import Setting, Verification
from tests.tools.profile.timelines import Pipeline

CORES = 64.0
# Many small objects: letting the consumer have a batch takes 10 ms, of which it computes 4.
SMALL_OBJECTS = Pipeline(cpu_s=0.003, send_s=0.002, take_s=0.010, take_cpu_s=0.004)
SLOW_SAMPLES = Pipeline(
    cpu_s=0.002, waits_s=(*[0.001] * 12, 0.3, *[0.001] * 30, 0.3, *[0.001] * 19), take_s=0.0002
)
PYTHON_COLLATE = Pipeline(cpu_s=0.012, send_s=0.006, take_s=0.003, take_cpu_s=0.003, step_s=0.002)
BUSY = Pipeline(cpu_s=0.004, core_waits_s=(0.0, 0.0, 0.0, 0.04))


def predicted(pipeline, workers, **options):
    load = make_load(pipeline.measured(**options), CORES, 0.0)
    return replay(load, Setting(workers, 2)).samples_per_s


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "pipeline", [SMALL_OBJECTS, SLOW_SAMPLES, PYTHON_COLLATE], ids=["objects", "slow", "collate"]
)
def test_prediction_is_what_the_timeline_gives(pipeline, workers):
    """Within 15 %, where it was off by 25 to 54."""
    assert predicted(pipeline, workers) == pytest.approx(pipeline.rate(workers), rel=0.15)


def test_taking_over_a_batch_counts_with_all_its_time():
    """Also the part in which the consumer waits for the worker that made the batch."""
    measured = SMALL_OBJECTS.measured()
    taking = find_taking(measured, measured.alone)
    assert taking.cpu_s == pytest.approx(0.004)
    assert taking.whole_s == pytest.approx(0.010, rel=0.01)


def test_few_ready_batches_tell_nothing_of_taking_over():
    """They were ready because the consumer was held up, and what held it up is no hand-off."""
    pipeline = Pipeline(cpu_s=0.008, take_s=0.0002, take_cpu_s=0.0002)
    trial = pipeline.trial(2, 100)
    asked, left = Row._fields.index("asked"), Row._fields.index("left")
    for number in range(30, 100, 10):
        trial.epochs[0][number, asked] = trial.epochs[0][number, left] - 5_000_000
        trial.epochs[0][number, Row._fields.index("written")] -= 20_000_000
    measured = replace(pipeline.measured(), own=trial, crowded=trial)
    assert find_taking(measured, measured.alone).wait_s == 0.0


def test_sending_counts_where_the_consumer_is_the_limit():
    """Nothing of it shows in the time from batch to batch, but it needs cores all the same."""
    load = make_load(SMALL_OBJECTS.measured(), CORES, 0.0)
    assert load.cpu_s.mean() == pytest.approx(0.005, rel=0.05)
    one_core = make_load(SMALL_OBJECTS.measured(), 1.0, 0.0)
    assert replay(one_core, Setting(1, 2)).cpu_share == pytest.approx(0.9, abs=0.05)


def test_slow_batches_of_all_trials_count():
    """One worker alone meets few of those that come once in a while."""
    measured = SLOW_SAMPLES.measured(own=4, batches=100)
    load = make_load(measured, CORES, 0.0)
    assert len(load.wait_s) == sum(
        len(each.rows) for each in (measured.alone, measured.crowded, measured.own)
    )
    assert 0 < load.is_slow.mean() < 0.1


@given(
    waits=st.lists(st.floats(0, 1), min_size=1, max_size=50),
    core_wait=st.floats(0, 60),
)
def test_waiting_for_a_core_is_taken_out_whole(waits, core_wait):
    """What is left is the rest of the sum; no batch gets less than nothing or more than it had."""
    before = np.array(waits)
    after = without_core_wait(before, core_wait)
    assert after.sum() == pytest.approx(max(0.0, before.sum() - core_wait), abs=1e-9)
    assert (after >= -1e-12).all()
    assert (after <= before + 1e-12).all()


def test_a_slow_file_stays_slow_beside_waiting_for_cores():
    """Much is taken from nobody who has little."""
    waits = np.array([*[0.005] * 99, 0.3])
    assert without_core_wait(waits, 0.495)[-1] > 0.29


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_waiting_for_a_core_is_not_waiting_for_files(workers):
    """However unevenly it comes: neither in the costs nor in the breakdown nor in the load."""
    measured = BUSY.measured(own=workers)
    assert find_costs(measured).by_culprit["fetch-wait"] == pytest.approx(0, abs=1e-4)
    assert make_load(measured, CORES, 8.0).wait_s.sum() == pytest.approx(0, abs=1e-3)
    breakdown = {share.stage: share for share in make_breakdown(measured.own)}
    assert breakdown["fetch, waiting"].mean_s == pytest.approx(0, abs=1e-3)
    assert breakdown["waiting for a core"].mean_s == pytest.approx(0.01, rel=0.1)


def test_other_programs_show_where_workers_want_every_core():
    """One worker leaves them the other core and waits for none; two get half of what they want."""
    busy = replace(BUSY, core_waits_s=(0.004,))
    measured = replace(BUSY.without_core_waits().measured(), crowded=busy.trial(2))
    load = make_load(measured, 2.0, 8.0)
    assert load.others == pytest.approx(2.0, rel=0.1)
    assert replay(load, Setting(2, 2)).samples_per_s == pytest.approx(busy.rate(2), rel=0.15)
    assert make_load(BUSY.without_core_waits().measured(), 2.0, 8.0).others == 0.0


def test_waking_up_is_no_sign_of_other_programs_while_cores_are_idle(monkeypatch):
    """A worker that sleeps often waits for a core a little each time; others keep half a core."""
    monkeypatch.setattr("fastload.tools.profile.load.affinity_cores", lambda: 2)
    sleeping = Pipeline(cpu_s=0.005, waits_s=(0.06,), core_waits_s=(0.001,))
    measured = sleeping.measured()
    ours = measured.alone.workers_cpu_s / measured.alone.elapsed_s

    def others(idle):
        trials = {"alone": measured.alone, "crowded": None}
        seen = {name: trial and replace(trial, idle_cores=idle) for name, trial in trials.items()}
        return make_load(replace(measured, **seen), 2.0, 8.0).others

    assert others(2.0 - ours) == pytest.approx(0.0, abs=0.01)
    assert others(1.5 - ours) == pytest.approx(0.5, abs=0.01)
    assert others(0.0) == others(None) > 2


@pytest.mark.parametrize(("wait", "contention"), [(0.06, 0.0), (0.001, 0.5)])
def test_workers_that_wait_do_not_make_computing_dearer(wait, contention):
    """Where they hardly compute, CPU time that differs between trials tells nothing of cores."""
    alone, crowded = (Pipeline(cpu_s=cpu, waits_s=(wait,)) for cpu in (0.005, 0.0075))
    measured = replace(alone.measured(), crowded=crowded.trial(2))
    assert make_load(measured, CORES, 0.0).contention == pytest.approx(contention, abs=0.01)


def test_many_recorded_batches_are_replayed_by_a_part_of_them():
    """Of waiting and computing the same ones, so that the replay takes no seconds."""
    waits = np.zeros(50_000)
    waits[::100] = 0.1
    each = np.full(50_000, 0.001)
    load = Load(waits, each - waits * 0.01, each, each, 0, 0, 0, 0, samples=10, cores=CORES)
    part = replay(load, Setting(1, 2)).samples_per_s
    assert part == pytest.approx(10 / (waits.mean() + load.cpu_s.mean()), rel=0.3)
    assert len(waits) > MOST_REPLAYED


@given(
    stall=st.floats(0.05, 1.0),
    rate=st.floats(1, 1e6),
    step_s=st.floats(0, 1),
)
def test_ideal_loader_is_within_what_the_stall_allows(stall, rate, step_s):
    """Whatever the step takes by itself; and what is read off the sentence agrees."""
    run = Verification(Setting(2, 2), rate, rate, stall, stall, 50)
    own = SMALL_OBJECTS.trial(2, 40)
    speed = own_speed(own, run)
    verdict = make_verdict(speed, step_s, "collate", has_step=True)
    assert verdict.stall_share <= stall
    assert verdict.headroom <= 1 / max(1e-3, 1 - stall) + 1e-9
    if verdict.bound != "not":
        shown = float(verdict.sentence.split(" make it ")[1].split()[0])
        share = float(verdict.sentence.split("waits ")[1].split("%")[0]) / 100
        assert shown <= 1 / max(1e-3, 1 - share) + 1e-9
    assert speed.step_s * rate == pytest.approx(10 * (1 - verdict.stall_share))


def test_consumer_is_told_by_the_same_figures():
    """The step on the screen is what the stall leaves of the time from batch to batch."""
    measured = PYTHON_COLLATE.measured()
    run = Verification(Setting(2, 2), 500, 500, 0.25, 0.25, 50)
    speed = own_speed(measured.own, run)
    load = make_load(measured, CORES, 0.0)
    resources = make_resources(measured, load, Cores(64, None, 1), "collate", speed)
    consumer = {each.name: each for each in resources}["consumer"]
    assert consumer.use == 0.75
    assert "busy 75.0% of the time: 15.00 ms a batch" in consumer.evidence
    assert "2.00 ms by itself" in consumer.evidence
