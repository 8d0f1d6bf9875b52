"""What ``loader.stats()`` says is true of the epoch it was asked in."""

import json
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

import fastload
from fastload.stats.counters import Counters
from fastload.stats.recording import MOST_RECENT, recording
from fastload.stats.rows import MOST_ROWS, Row, StampRows, durations
from fastload.stats.snapshot import Stats

WORKERS = [0, 2]


class Sleepy:
    """Sample 7 takes 40 ms, every other one 1 ms."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        threading.Event().wait(0.04 if index == 7 else 0.001)
        return torch.full((64,), float(index))


class Counting(IterableDataset):
    def __iter__(self):
        return iter(range(20))


class Broken:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            raise KeyError(index)
        return index


def row(**changes):
    return Row(*[0] * len(Row._fields))._replace(**changes)


@pytest.mark.parametrize("workers", WORKERS)
def test_before_the_first_epoch_everything_is_zero(workers):
    """Nothing was delivered, nothing took time, and it can be asked."""
    stats = fastload.DataLoader(Sleepy(), num_workers=workers).stats()
    assert (stats.batches, stats.samples, stats.wait_s, stats.workers) == (0, 0, 0, ())
    assert stats.stall_share == 0


@pytest.mark.parametrize("workers", WORKERS)
def test_an_epoch_counts_each_batch_and_sample_once(workers):
    """The counts are those of the epoch, and the workers' parts add up to them."""
    loader = fastload.DataLoader(Sleepy(), batch_size=5, num_workers=workers)
    assert len(list(loader)) == 7
    stats = loader.stats()
    assert (stats.batches, stats.samples) == (7, 32)
    assert sum(worker.batches for worker in stats.workers) == 7
    assert sum(worker.samples for worker in stats.workers) == 32
    assert [worker.worker_id for worker in stats.workers] == ([0, 1] if workers else [-1])


@pytest.mark.parametrize("workers", WORKERS)
def test_in_the_middle_of_an_epoch_it_says_what_was_delivered_so_far(workers):
    """A snapshot stays as it was while the epoch goes on."""
    loader = fastload.DataLoader(Sleepy(), batch_size=4, num_workers=workers)
    batches = iter(loader)
    next(batches), next(batches)
    early = loader.stats()
    list(batches)
    assert (early.batches, loader.stats().batches) == (2, 8)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_dataset_that_sleeps_shows_as_fetch_that_is_not_cpu(workers):
    """Waiting in the dataset is fetch time; neither collate, nor writing, nor CPU time."""
    loader = fastload.DataLoader(Sleepy(), batch_size=4, num_workers=workers)
    list(loader)
    stages = loader.stats().stages
    assert stages.fetch.total_s >= 0.03 + 0.04
    assert stages.fetch_cpu.total_s < stages.fetch.total_s / 2
    assert stages.collate.total_s + stages.write.total_s < stages.fetch.total_s / 2


@pytest.mark.parametrize("workers", WORKERS)
def test_time_in_the_collate_function_shows_as_collate(workers):
    """Collate has a stage of its own."""

    def slow_collate(samples):
        threading.Event().wait(0.01)
        return samples

    loader = fastload.DataLoader(
        range(12), batch_size=4, num_workers=workers, collate_fn=slow_collate
    )
    list(loader)
    stages = loader.stats().stages
    assert stages.collate.total_s >= 0.03 > stages.fetch.total_s


@pytest.mark.parametrize("workers", WORKERS)
def test_the_training_loops_own_time_is_busy_not_waiting(workers):
    """What passes between two calls of next is the consumer's."""
    loader = fastload.DataLoader(range(8), batch_size=2, num_workers=workers)
    for _ in loader:
        threading.Event().wait(0.02)
    stats = loader.stats()
    assert stats.busy_s >= 3 * 0.02
    assert stats.busy_s + stats.wait_s <= stats.elapsed_s + 1e-6


def test_the_slowest_sample_is_named():
    """Where samples are slow, the slowest one's index is known."""
    loader = fastload.DataLoader(Sleepy(), batch_size=2, num_workers=1)
    list(loader)
    slowest = loader.stats().slowest[0]
    assert slowest.index == "7"
    assert slowest.elapsed_s >= 0.04


def test_batches_behind_a_slow_one_wait_in_the_order():
    """The batches of the other worker were ready and waited for the one before."""
    loader = fastload.DataLoader(Sleepy(), batch_size=4, num_workers=2)
    list(loader)
    assert loader.stats().stages.reorder.total_s > 0.02
    assert loader.stats().stages.reorder.p50_s < 0.02


@pytest.mark.parametrize("workers", WORKERS)
def test_a_stream_counts_too(workers):
    """An iterable dataset has the same stages."""
    loader = fastload.DataLoader(Counting(), batch_size=4, num_workers=min(workers, 1))
    assert len(list(loader)) == loader.stats().batches == 5


@pytest.mark.parametrize("workers", WORKERS)
def test_time_spent_waiting_for_an_exception_counts(workers):
    """A batch that raised is not delivered; the others are."""
    loader = fastload.DataLoader(Broken(), batch_size=2, num_workers=workers)
    batches = iter(loader)
    next(batches), next(batches)
    with pytest.raises(KeyError):
        next(batches)
    next(batches)
    assert loader.stats().batches == 3


@pytest.mark.parametrize("workers", WORKERS)
def test_workers_report_bytes_and_memory(workers):
    """Shared bytes are those of the batches; a worker's peak is that of a Python with torch."""
    loader = fastload.DataLoader(Sleepy(), batch_size=4, num_workers=workers)
    list(loader)
    stats = loader.stats()
    assert stats.shared_bytes == (32 * 64 * 4 if workers else 0)
    assert all((worker.peak_bytes > 1 << 24) == bool(workers) for worker in stats.workers)


def test_it_can_be_written_as_json():
    """Everything in it is a plain value."""
    loader = fastload.DataLoader(range(8), batch_size=2, num_workers=1)
    list(loader)
    document = json.loads(json.dumps(loader.stats().to_dict()))
    assert document["stages"]["fetch"]["p99_s"] >= document["stages"]["fetch"]["p50_s"] > 0
    assert 0 <= document["stall_share"] <= 1


def test_a_tensorboard_writer_gets_each_figure_with_its_step():
    """Whatever has ``add_scalar`` is a writer."""
    found = []

    class Writer:
        def add_scalar(self, name, value, step):
            found.append((name, value, step))

    loader = fastload.DataLoader(range(8), batch_size=2)
    list(loader)
    loader.stats().send(Writer(), 3)
    assert ("fastload/batches", 4.0, 3) in found


def test_prometheus_gets_a_gauge_for_each_figure():
    """Names, labels and values are in its text format."""
    loader = fastload.DataLoader(range(8), batch_size=2)
    list(loader)
    lines = loader.stats().to_prometheus(job='a "b"').splitlines()
    assert "# TYPE fastload_batches gauge" in lines
    assert r'fastload_batches{job="a \"b\""} 4.0' in lines


def test_sums_cover_the_whole_epoch_although_rows_are_forgotten():
    """More batches than there are rows: totals and counts lose none."""
    rows = StampRows()
    for number in range(2 * MOST_ROWS + 10):
        rows.add(row(worker=number % 2, samples=3, started=0, fetched=5, peak_bytes=number))
    sums = rows.sums_by_worker()
    assert sum(each["batches"] for each in sums.values()) == 2 * MOST_ROWS + 10
    assert sum(each["samples"] for each in sums.values()) == 3 * (2 * MOST_ROWS + 10)
    assert sum(each["fetch"] for each in sums.values()) == 5 * (2 * MOST_ROWS + 10)
    assert sums[1]["peak_bytes"] == 2 * MOST_ROWS + 9
    newest = rows.newest()
    assert len(newest) == MOST_ROWS
    assert newest[-1][3] == 2 * MOST_ROWS + 9
    assert newest[0][3] == MOST_ROWS + 10


def test_hand_off_begins_when_the_consumer_asks_or_the_worker_ends():
    """A batch that was ready long ago costs only the time to take it."""
    rows = StampRows()
    rows.add(row(written=100, asked=900, got=905, left=910))
    rows.add(row(written=990, asked=950, got=1000, left=1007, sampler=2))
    assert durations(rows.newest())["hand_off"].tolist() == [10, 15]
    assert durations(rows.newest())["busy"].tolist() == [40, 0]


def test_pinning_is_part_of_the_wait_and_has_a_stage():
    """The batch leaves after it was pinned."""
    rows = StampRows()
    rows.pinned(rows.add(row(asked=10, got=20, left=30)), 7)
    took = durations(rows.newest())
    assert (took["pin"][0], took["wait"][0], took["hand_off"][0]) == (7, 27, 20)


def test_an_empty_recording_has_a_snapshot():
    """No batch yet is not an error."""
    assert isinstance(Counters().snapshot(), Stats)


def test_rows_read_while_they_are_written_are_whole():
    """Every row that a reader gets was written to its end, and sums are those of its rows."""
    rows, stop, wrong = StampRows(), threading.Event(), []

    def read():
        while not stop.is_set():
            newest = rows.newest()
            numbers = newest[:, Row._fields.index("peak_bytes")]
            took = durations(newest)
            sums = rows.sums_by_worker().get(0, {"batches": 0, "pin": 0, "samples": 0})
            if (numbers[1:] != numbers[:-1] + 1).any() or (took["fetch"] != 5).any():
                wrong.append(newest)
            if sums["samples"] != 3 * sums["batches"]:
                wrong.append(sums)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(5 * MOST_ROWS):
        rows.add(row(samples=3, started=number, fetched=number + 5, peak_bytes=number))
    stop.set()
    reader.join()
    assert not wrong
    assert rows.sums_by_worker()[0]["batches"] == 5 * MOST_ROWS


def test_sums_are_those_of_all_rows_at_once():
    """Also where rows were forgotten: no step and no reordering is lost between two chunks."""
    rows, every = StampRows(), []
    for number in range(3 * MOST_ROWS):
        late = 7 if number % 3 == 0 else 0
        times = {"asked": 20 * number, "got": 20 * number + 2, "left": 20 * number + 9}
        every.append(row(written=20 * number + late, **times))
        rows.add(every[-1])
    took, sums = durations(np.array(every)), rows.sums_by_worker()[0]
    for stage in ("busy", "wait", "reorder", "hand_off"):
        assert sums[stage] == took[stage].sum()


def test_an_epoch_takes_memory_as_it_has_batches():
    """A short one does not set aside what a long one needs."""
    tracemalloc.start()
    try:
        rows = StampRows()
        rows.add(row())
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


def test_a_recording_keeps_the_sums_of_epochs_that_are_over():
    """All are counted; only the newest keep their rows."""
    with recording() as epochs:
        loader = fastload.DataLoader(range(8), batch_size=2)
        for _ in range(3 * MOST_RECENT):
            list(loader)
        assert len(epochs.running()) <= MOST_RECENT + 1
        found = epochs.snapshots()
    assert sum(each.batches for each in found) == 4 * 3 * MOST_RECENT
    assert sum(each.samples for each in found) == 8 * 3 * MOST_RECENT
