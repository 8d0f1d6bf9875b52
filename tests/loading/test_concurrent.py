"""``concurrent_samples``: many samples at a time, and what arrives is that of one at a time."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

import fastload
from fastload.tools.bench.equality import difference
from tests.loading.waiting import (
    BAD,
    LENGTH,
    Awaited,
    AwaitedBatches,
    Broken,
    BrokenAwaited,
    BrokenAwaitedBatches,
    Crowd,
    CrowdAwaited,
    Deadly,
    Hanging,
    HangingAwaited,
    Noting,
    NotingAwaited,
    SameLoop,
    Together,
    TogetherAwaited,
    Waiting,
)

every_number_of_workers = pytest.mark.parametrize("workers", [0, 1, 2])
PATIENCE_S = 30.0


def loaded(dataset, **options):
    with fastload.DataLoader(dataset, **options) as loader:
        return list(loader)


DATASETS = {
    "plain": Waiting,
    "async": Awaited,
    "async batches": AwaitedBatches,
    "part of plain": lambda: Subset(Waiting(), range(3, 33)),
    "part of async": lambda: Subset(Awaited(), range(3, 33)),
    "part of async batches": lambda: Subset(AwaitedBatches(), range(3, 33)),
    "async and plain, joined": lambda: ConcatDataset([Awaited(), Waiting()]),
}


@every_number_of_workers
@pytest.mark.parametrize("at_a_time", [1, 7])
@pytest.mark.parametrize("make", DATASETS.values(), ids=DATASETS)
def test_batches_and_their_order_are_those_of_one_at_a_time(make, at_a_time, workers):
    """Whatever ends first: types, values and order are those of torch's loader."""
    usual = make()
    length = len(usual)
    indices = {30: range(3, 33), LENGTH: range(LENGTH), 2 * LENGTH: [*range(LENGTH)] * 2}[length]
    torch.manual_seed(0)
    expected = list(
        torch.utils.data.DataLoader(Subset(Waiting(), indices), batch_size=9, shuffle=True)
    )
    torch.manual_seed(0)
    found = loaded(
        usual, batch_size=9, shuffle=True, num_workers=workers, concurrent_samples=at_a_time
    )
    assert difference(expected, found) is None


@pytest.mark.parametrize(("method", "kind"), [("spawn", Awaited), ("forkserver", Waiting)])
def test_it_works_with_each_start_method(method, kind):
    """Nothing of threads or loops travels to a worker."""
    options = {"num_workers": 1, "multiprocessing_context": method, "concurrent_samples": 8}
    found = loaded(kind(), batch_size=16, **options)
    assert torch.cat([batch["number"] for batch in found]).tolist() == list(range(LENGTH))


@every_number_of_workers
@pytest.mark.parametrize("kind", [Together, TogetherAwaited])
def test_so_many_samples_load_at_a_time(kind, workers):
    """Each of them comes only when all of them have begun."""
    dataset = kind(4)
    batches = [list(range(13)), list(range(13))]  # one alone, and three times four
    found = loaded(
        dataset, batch_sampler=batches[: max(1, workers)], num_workers=workers, concurrent_samples=4
    )
    assert [batch.tolist() for batch in found] == batches[: max(1, workers)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("at_a_time", [1, 5])
@pytest.mark.parametrize("kind", [Crowd, CrowdAwaited])
def test_never_more_load_at_a_time(kind, at_a_time, workers):
    """The number that was given is the most."""
    found = loaded(kind(), batch_size=20, num_workers=workers, concurrent_samples=at_a_time)
    assert torch.cat(found).max() <= at_a_time


@every_number_of_workers
@pytest.mark.parametrize("kind", [Broken, BrokenAwaited])
def test_the_error_of_the_first_sample_that_failed_is_raised(kind, workers):
    """First in the batch, not in time; it names its sample, and the epoch goes on behind it."""
    loader = fastload.DataLoader(
        kind(bad=(2, 5)), batch_size=8, num_workers=workers, concurrent_samples=8
    )
    with loader:
        batches = iter(loader)
        with pytest.raises(ValueError, match="broken file 2") as caught:
            next(batches)
        if sys.version_info >= (3, 11):
            notes = "\n".join(caught.value.__notes__)
            assert "while loading the sample at dataset index 2" in notes
        assert next(batches).tolist() == list(range(8, 16))


def fail():
    raise ValueError("broken")


@pytest.mark.parametrize("kind", [Noting, NotingAwaited])
def test_behind_an_error_no_sample_is_begun(kind):
    """But those that load at the same time."""
    dataset = kind(fail)
    with pytest.raises(ValueError, match="broken"):
        loaded(dataset, batch_size=400, concurrent_samples=4)
    time.sleep(0.1)
    assert max(dataset.begun) <= 5


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [Broken, BrokenAwaited])
def test_stop_iteration_of_a_sample_does_not_end_the_epoch(kind, workers):
    """It is an error that names the index, as in the plain way."""
    with pytest.raises(RuntimeError, match="the dataset raised StopIteration for index 5"):
        loaded(
            kind(StopIteration, bad=(5,)), batch_size=8, num_workers=workers, concurrent_samples=8
        )


def negated(error, index):
    """Another sample for some that can't be loaded."""
    return None if index == 5 else torch.tensor(-index)


@every_number_of_workers
@pytest.mark.parametrize("on_error", ["skip", negated])
@pytest.mark.parametrize("kind", [Broken, BrokenAwaited, BrokenAwaitedBatches])
def test_samples_that_fail_are_left_out_or_replaced_one_by_one(kind, on_error, workers):
    """As one at a time: the same batches, the same counted and named, in their order."""
    found = []
    for dataset, at_a_time in ((Broken(), 1), (kind(), 6)):
        loader = fastload.DataLoader(
            dataset,
            batch_size=4,
            num_workers=workers,
            on_error=on_error,
            concurrent_samples=at_a_time,
        )
        with loader:
            batches = [batch.tolist() for batch in loader]
            found.append((batches, [each.index for each in loader.stats().skipped]))
    assert found[0] == found[1]
    assert found[1][1] == list(BAD)


@pytest.mark.parametrize("at_a_time", [1, 4])
def test_async_batches_are_one_call_each(at_a_time):
    """``__getitems__`` is awaited as it is."""
    dataset = AwaitedBatches()
    loaded(dataset, batch_size=8, concurrent_samples=at_a_time)
    assert dataset.calls == LENGTH / 8


@every_number_of_workers
@pytest.mark.parametrize("kind", [Waiting, Awaited])
def test_with_automatic_batching_off_there_is_one_sample_at_a_time(kind, workers):
    """It is awaited where it must be."""
    found = loaded(kind(), batch_size=None, num_workers=workers, concurrent_samples=4)
    assert [sample["number"].item() for sample in found] == list(range(LENGTH))


def test_data_in_memory_is_gathered_as_ever():
    """No thread is started for it."""
    found = loaded(TensorDataset(torch.arange(10)), batch_size=4, concurrent_samples=4)
    assert [batch[0].tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert not sample_threads()


class Drawing(Waiting):
    """Draws from one generator, for all samples or from one index on."""

    def __init__(self, draw, since=0):
        self.draw = draw
        self.since = since
        self.rng = np.random.default_rng(1)

    def __getitem__(self, index):
        return {
            "python": random.random,
            "numpy": np.random.normal,
            "torch": lambda: torch.rand(()).item(),
            "own": self.rng.random,
        }[self.draw if index >= self.since else "own"]()


class DrawingAwaited(Drawing):
    """The same, asynchronously."""

    async def __getitem__(self, index):
        return Drawing.__getitem__(self, index)


SOURCES = {
    "python": "Python's random",
    "numpy": "numpy.random",
    "torch": "torch's default generator",
    "own": "dataset.rng",
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("draw", SOURCES)
@pytest.mark.parametrize("kind", [Drawing, DrawingAwaited])
def test_a_dataset_that_draws_is_refused_before_the_first_batch(kind, draw, workers):
    """Which sample draws first would be a matter of timing; the error names generator and cure."""
    np.random.normal()  # caches another one, whose draw does not show in the generator's words
    words = rf"drew from {SOURCES[draw]} .*depend on timing.*concurrent_samples=1"
    with pytest.raises(ValueError, match=words):
        loaded(kind(draw), batch_size=4, num_workers=workers, concurrent_samples=4)


@pytest.mark.parametrize("workers", [0, 1])
def test_that_a_dataset_draws_is_no_samples_fault(workers):
    """It is an error also where samples that can't be loaded are left out."""
    with pytest.raises(ValueError, match="drew from Python's random"):
        loaded(
            Drawing("python"),
            batch_size=4,
            num_workers=workers,
            on_error="skip",
            concurrent_samples=4,
        )


class DrawingBatches(DrawingAwaited):
    """Awaits the samples of a batch in any order."""

    async def __getitems__(self, indices):
        return [await self[index] for index in reversed(indices)]


def test_async_batches_that_draw_are_refused():
    """In which order they draw is up to them."""
    with pytest.raises(ValueError, match=r"drew from numpy\.random"):
        loaded(DrawingBatches("numpy"), batch_size=4)


def test_one_async_sample_at_a_time_may_draw():
    """Samples then draw in their order: the numbers are those of a plain dataset."""
    found = []
    for kind in (Drawing, DrawingAwaited):
        torch.manual_seed(3)
        found.append(loaded(kind("torch"), batch_size=4))
    assert difference(*found) is None


class RarelyDrawing(Waiting):
    """Draws in later samples alone."""

    def __getitem__(self, index):
        return random.random() if index > 10 else 0.5


def test_draws_of_later_samples_alone_are_not_found():
    """What a client draws before it tries again must not end a training."""
    assert len(loaded(RarelyDrawing(), batch_size=4, concurrent_samples=4)) == LENGTH / 4


@pytest.mark.parametrize("kind", [Noting, NotingAwaited])
def test_ctrl_c_begins_no_other_sample_and_loses_none(kind):
    """At most those that load end; the batch is loaded anew when it is asked for again."""
    dataset = kind(lambda: os.kill(os.getpid(), signal.SIGINT), seconds=0.05)
    loader = fastload.DataLoader(dataset, batch_size=200, concurrent_samples=50)
    batches = iter(loader)
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    begun = len(dataset.begun)
    time.sleep(0.2)
    assert len(dataset.begun) <= begun + 50 < 200
    assert torch.cat(list(batches)).tolist() == list(range(400))


class Interruption(Exception):
    """Raised by a signal handler."""


def interrupt(*_):
    raise Interruption


@pytest.mark.parametrize("kind", [Noting, NotingAwaited])
def test_what_a_signal_handler_raises_is_no_samples_fault(kind):
    """It is not taken for a sample that can't be loaded, and the epoch goes on."""
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        dataset = kind(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        loader = fastload.DataLoader(
            dataset, batch_size=200, concurrent_samples=50, on_error="skip"
        )
        batches = iter(loader)
        with pytest.raises(Interruption):
            next(batches)
        assert torch.cat(list(batches)).tolist() == list(range(400))
        assert not loader.stats().skipped
    finally:
        signal.signal(signal.SIGUSR1, before)


PROGRAM = """
    import asyncio, os, signal, threading, time
    import fastload

    class Slow:
        def __len__(self):
            return 10_000

        {kind} __getitem__(self, index):
            if index == 1:
                os.kill(os.getpid(), signal.SIGINT)
            {sleep}(0.1)
            return index

    signal.signal(signal.SIGINT, signal.default_int_handler)
    {body}
"""

IN_THE_MAIN_THREAD = "list(fastload.DataLoader(Slow(), batch_size=10_000, concurrent_samples=2))"
IN_A_DAEMON = """
    def load():
        list(fastload.DataLoader(Slow(), batch_size=10_000, concurrent_samples=2))

    threading.Thread(target=load, daemon=True).start()
    time.sleep(60)
"""


@pytest.mark.parametrize("body", [IN_THE_MAIN_THREAD, IN_A_DAEMON], ids=["main", "daemon"])
@pytest.mark.parametrize(
    ("kind", "sleep"), [("def", "time.sleep"), ("async def", "await asyncio.sleep")]
)
def test_a_program_ends_behind_the_samples_that_load(kind, sleep, body):
    """Nothing goes on through a batch that would take minutes, and nothing hangs."""
    program = textwrap.dedent(PROGRAM).format(kind=kind, sleep=sleep, body=textwrap.dedent(body))
    ended = subprocess.run(
        [sys.executable, "-c", program], timeout=120, capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert "KeyboardInterrupt" in ended.stderr


def sample_threads():
    return [each for each in threading.enumerate() if each.name.startswith("fastload-samples")]


@pytest.mark.parametrize("kind", [Waiting, Awaited])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_an_automatic_number_of_workers_goes_with_it(kind):
    """Whatever is chosen meanwhile."""
    found = loaded(kind(), batch_size=2, num_workers="auto", concurrent_samples=2)
    assert torch.cat([batch["number"] for batch in found]).tolist() == list(range(LENGTH))


@pytest.mark.parametrize("ending", ["dropped", "closed", "in the middle"])
@pytest.mark.parametrize("kind", [Waiting, Awaited])
def test_threads_and_loop_end_with_the_loader(kind, ending):
    """When nobody has it any more, or at once when it is closed."""
    loader = fastload.DataLoader(kind(), batch_size=4, concurrent_samples=4)
    batches = iter(loader)
    next(batches)
    assert sample_threads()
    if ending == "closed":
        loader.close()
    elif ending == "dropped":
        list(batches)
    del batches, loader
    deadline_s = time.monotonic() + PATIENCE_S
    while sample_threads() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not sample_threads()


def test_a_closed_loader_begins_anew():
    """``close`` ends what runs; a new epoch starts threads and loop of its own."""
    for dataset in (Waiting(), Awaited()):
        loader = fastload.DataLoader(dataset, batch_size=4, concurrent_samples=4)
        for _ in range(2):
            assert len(list(loader)) == LENGTH / 4
            loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_all_epochs_are_awaited_in_one_loop(workers):
    """So a dataset may keep a session open, which belongs to its loop."""
    loader = fastload.DataLoader(
        SameLoop(),
        batch_size=4,
        num_workers=workers,
        persistent_workers=workers > 0,
        concurrent_samples=2,
    )
    with loader:
        for _ in range(3):
            assert all(batch.all() for batch in loader)


def test_async_datasets_work_where_a_loop_runs_already():
    """As in a notebook."""

    async def cell():
        return loaded(Awaited(), batch_size=LENGTH, concurrent_samples=8)

    (batch,) = asyncio.run(cell())
    assert batch["number"].tolist() == list(range(LENGTH))


def load_in_a_child(loader):
    raise SystemExit(sum(len(batch["number"]) for batch in loader))


@pytest.mark.parametrize("kind", [Waiting, Awaited])
def test_the_child_of_a_fork_has_threads_of_its_own(kind):
    """Those of its parent do not live on in it."""
    loader = fastload.DataLoader(kind(), batch_size=4, concurrent_samples=4)
    list(loader)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=load_in_a_child, args=(loader,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child.start()
    child.join(PATIENCE_S)
    assert child.exitcode == LENGTH
    assert len(list(loader)) == LENGTH / 4


@pytest.mark.filterwarnings("ignore:DataLoader worker .* was started again")
def test_a_worker_killed_while_samples_load_is_started_again():
    """Each sample is delivered once and in its place."""
    found = loaded(
        Deadly(), batch_size=4, num_workers=2, max_worker_restarts=1, concurrent_samples=4
    )
    assert torch.cat(found).tolist() == list(range(LENGTH))


@pytest.mark.parametrize("kind", [Hanging, HangingAwaited])
def test_a_sample_that_hangs_is_told_by_the_timeout(kind):
    """As in the plain way, and closing waits for nobody."""
    loader = fastload.DataLoader(
        kind(), batch_size=4, num_workers=1, timeout=2, concurrent_samples=4
    )
    with loader:
        batches = iter(loader)
        assert next(batches).tolist() == [0, 1, 2, 3]
        with pytest.raises(fastload.LoadingTimeout, match=r"dataset indices \[4, 5, 6, 7\]"):
            next(batches)


def test_the_timeout_shows_the_sample_that_hangs_among_many_threads():
    """Its line; threads that have nothing to do are left out."""
    loader = fastload.DataLoader(
        Hanging(), batch_size=LENGTH, num_workers=1, timeout=2, concurrent_samples=LENGTH
    )
    hangs = pytest.raises(fastload.LoadingTimeout, match=r"waiting\.py.*__getitem__")
    with loader, hangs as caught:
        next(iter(loader))
    assert not re.search(r"call first\):\n.*futures.thread\.py", str(caught.value))


class SlowAtSeven(Waiting):
    """One sample is far slower than all others."""

    def __getitem__(self, index):
        time.sleep(0.3 if index == 7 else 0.002)
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_the_slowest_sample_is_timed_where_it_loads(workers):
    """It is named, with the time that it took and not that of its batch."""
    loader = fastload.DataLoader(
        SlowAtSeven(), batch_size=LENGTH, num_workers=workers, concurrent_samples=4
    )
    with loader:
        list(loader)
        stats = loader.stats()
    assert stats.slowest[0].index == "7"
    assert 0.3 <= stats.slowest[0].elapsed_s <= stats.stages.fetch.total_s


class Busy(Waiting):
    """Computes for a while."""

    def __getitem__(self, index):
        began = time.thread_time()
        while time.thread_time() - began < 0.005:
            pass
        return index


class BusyAwaited(Busy):
    """The same, asynchronously."""

    async def __getitem__(self, index):
        return Busy.__getitem__(self, index)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [Busy, BusyAwaited])
def test_cpu_time_of_samples_is_counted(kind, workers):
    """Whichever thread took it."""
    loader = fastload.DataLoader(kind(), batch_size=8, num_workers=workers, concurrent_samples=4)
    with loader:
        list(loader)
        assert loader.stats().stages.fetch_cpu.total_s >= 0.005 * LENGTH


class Numbers(IterableDataset):
    """An iterable dataset."""

    def __iter__(self):
        return iter(range(8))


class Items(Numbers):
    """One whose items are loaded, which needs ``seed=``."""

    def load(self, item):
        return item


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-3, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_the_number_must_be_a_whole_one(value, error):
    """Of at least 1; the error shows what was given."""
    with pytest.raises(error, match=rf"concurrent_samples.*{value}"):
        fastload.DataLoader(Waiting(), concurrent_samples=value)


@pytest.mark.parametrize("kind", [Numbers, Items])
def test_iterable_datasets_are_refused(kind):
    """Their samples come one after another."""
    with pytest.raises(ValueError, match=r"concurrent_samples=2 needs a map-style dataset"):
        fastload.DataLoader(kind(), concurrent_samples=2)
    assert len(list(fastload.DataLoader(kind(), concurrent_samples=1))) == 8


def test_it_survives_replacing_copying_and_pickling():
    """As every option; threads do not travel."""
    loader = fastload.DataLoader(Waiting(), batch_size=4, concurrent_samples=6)
    list(loader)
    for other in (
        loader.replace(batch_size=2),
        copy.copy(loader),
        copy.deepcopy(loader),
        pickle.loads(pickle.dumps(loader)),
    ):
        assert other.concurrent_samples == 6
        assert len(next(iter(other))["number"]) == other.batch_size
    assert loader.replace(concurrent_samples=2).concurrent_samples == 2


class WhoLoads(Dataset):
    """A sample is the thread that loads it."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index):
        return threading.get_ident()


def test_without_the_option_samples_load_in_the_asking_thread():
    """Nothing changes for who does not ask for it."""
    assert set(torch.cat(loaded(WhoLoads())).tolist()) == {threading.get_ident()}


class Uneven(Dataset):
    """The first sample raises at once; the others are still loading then."""

    loading = 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index):
        if index == 0:
            raise ValueError(index)
        self.loading += 1
        time.sleep(0.2)
        self.loading -= 1
        return index


def test_nobody_calls_the_dataset_behind_close():
    """Samples that load beside the one that raised are waited for."""
    dataset = Uneven()
    loader = fastload.DataLoader(dataset, batch_size=8, concurrent_samples=8)
    with pytest.raises(ValueError, match="0"):
        list(loader)
    loader.close()
    assert dataset.loading == 0
