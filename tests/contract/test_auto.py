"""``num_workers="auto"`` changes when batches come, never which."""

import gc
import multiprocessing
import os
import pickle
import re
import threading
import time

import pytest
import torch
from torch.utils.data import IterableDataset

import fastload
from fastload._autotune.numbers import Auto


class Slow:
    """5 ms of waiting a sample: worth many workers."""

    def __init__(self, samples=400):
        self.samples = samples

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        threading.Event().wait(0.005)
        return index


class Sudden(Slow):
    """One sample in twenty takes sixty times as long."""

    def __getitem__(self, index):
        threading.Event().wait(0.06 if index % 20 == 7 else 0.001)
        return index


class Where(Slow):
    """Tells which process loaded it."""

    def __getitem__(self, index):
        super().__getitem__(index)
        return os.getpid()


class Eager:
    """Draws its order when it is asked for an iterator, not when that is asked for an index."""

    def __len__(self):
        return 400

    def __iter__(self):
        return iter(torch.randperm(400).tolist())


class Failing(Slow):
    def __getitem__(self, index):
        if index == 200:
            raise KeyError(index)
        return super().__getitem__(index)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(100))


def values(loader):
    return [batch.tolist() for batch in loader]


def children():
    """Workers; multiprocessing's own helpers stay from test to test."""
    return len(multiprocessing.active_children())


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_and_order_are_those_of_no_workers(shuffle):
    """However often the number of workers changes within the epoch."""
    torch.manual_seed(3)
    expected = values(fastload.DataLoader(range(400), batch_size=4, shuffle=shuffle))
    torch.manual_seed(3)
    loader = fastload.DataLoader(Slow(), batch_size=4, shuffle=shuffle, num_workers="auto")
    assert values(loader) == expected


def lazy_or_eager(is_eager, dataset):
    return Eager() if is_eager else torch.utils.data.RandomSampler(dataset)


@pytest.mark.parametrize(
    ("persistent", "is_eager", "step_s"),
    [
        *((False, False, 0), (True, True, 0), (False, True, 0.005), (True, False, 0.005)),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in [
                *((True, False, 0), (False, True, 0)),
                *((True, True, 0.005), (False, False, 0.005)),
            ]
        ),
    ],
)
def test_the_order_of_every_epoch_is_that_of_a_fixed_number(persistent, is_eager, step_s):
    """In which epoch it settles, and on workers or on none, changes nothing that is drawn."""
    options = {"batch_size": 8, "persistent_workers": persistent}
    torch.manual_seed(3)
    dataset = range(400)
    fixed = torch.utils.data.DataLoader(
        dataset, sampler=lazy_or_eager(is_eager, dataset), num_workers=1, **options
    )
    expected = [values(fixed) for _ in range(3)]
    torch.manual_seed(3)
    dataset = range(400) if step_s else Slow()
    with fastload.DataLoader(
        dataset, sampler=lazy_or_eager(is_eager, dataset), num_workers="auto", **options
    ) as loader:
        for order in expected:
            found = []
            for batch in loader:
                found.append(batch.tolist())
                threading.Event().wait(step_s)
            assert found == order
        assert bool(loader.num_workers) == (step_s == 0)


def test_workers_of_the_first_epoch_are_those_of_the_next():
    """What was started once is not started again."""
    loader = fastload.DataLoader(
        Where(1200), batch_size=4, num_workers="auto", persistent_workers=True
    )
    with loader:
        epochs = [{pid for batch in values(loader) for pid in batch} for _ in range(3)]
    assert epochs[1] == epochs[2]
    assert epochs[1] < epochs[0]
    assert os.getpid() not in epochs[1]


def test_more_batches_ahead_need_no_new_workers():
    """Those that run are given more tasks; order stays."""
    loader = fastload.DataLoader(
        Sudden(1600), batch_size=4, num_workers=4, prefetch_factor="auto", persistent_workers=True
    )
    with loader:
        batches = iter(loader)
        found = [next(batches).tolist()]
        workers = set(multiprocessing.active_children())
        found += [batch.tolist() for batch in batches]
        assert re.search(r"^num_workers=4, prefetch_factor=\d+", loader.stats().choice)
        assert set(multiprocessing.active_children()) == workers
        assert values(loader) == found
        assert set(multiprocessing.active_children()) == workers
    assert found == values(fastload.DataLoader(range(1600), batch_size=4))


def test_an_epoch_that_is_left_early_hands_its_workers_on():
    """The next one goes on with what was chosen so far."""
    loader = fastload.DataLoader(
        Slow(4000), batch_size=4, num_workers="auto", persistent_workers=True
    )
    with loader:
        for _ in loader:
            if children():
                break
        before = set(multiprocessing.active_children())
        assert next(iter(loader)).tolist() == [0, 1, 2, 3]
        assert before <= set(multiprocessing.active_children())


def test_few_samples_start_no_worker():
    """In the epochs that are sure to come they would not pay."""
    loader = fastload.DataLoader(
        range(100), batch_size=4, num_workers="auto", persistent_workers=True
    )
    for _ in range(3):
        values(loader)
        assert children() == 0


def test_rows_in_memory_are_gathered_without_workers():
    """As with any fixed number: nothing is tried."""
    dataset = torch.utils.data.TensorDataset(torch.arange(4000))
    loader = fastload.DataLoader(dataset, batch_size=4, num_workers="auto")
    found = []
    for (batch,) in loader:
        found += batch.tolist()
        assert children() == 0
    assert found == list(range(4000))


def test_it_settles_on_workers_where_loading_waits_and_says_why():
    """An epoch of waiting is enough to choose some; the next epochs use them."""
    loader = fastload.DataLoader(Slow(1200), batch_size=4, num_workers="auto")
    values(loader)
    stats = loader.stats()
    assert max(worker.worker_id for worker in stats.workers) >= 1
    assert "num_workers=" in stats.choice
    assert sum(worker.batches for worker in stats.workers) == stats.batches == 300


def test_it_stays_without_workers_where_the_step_is_what_takes_time():
    """Nothing is started for a loop that does not wait."""
    loader = fastload.DataLoader(range(40), batch_size=2, num_workers="auto")
    for _ in loader:
        threading.Event().wait(0.02)
        assert children() == 0
    assert loader.num_workers == 0
    assert loader.stats().choice.startswith("num_workers=0")


def test_later_epochs_are_ordinary_ones():
    """With the number that was chosen, and with the same batches."""
    loader = fastload.DataLoader(range(200), batch_size=2, num_workers="auto")
    for _ in loader:
        threading.Event().wait(0.003)
    chosen = loader.num_workers
    assert loader.stats().choice.startswith(f"num_workers={int(chosen)}")
    assert values(loader) == values(fastload.DataLoader(range(200), batch_size=2))
    assert loader.num_workers == chosen


def test_prefetch_factor_alone_may_be_automatic():
    """The number of workers then stays."""
    loader = fastload.DataLoader(Slow(), batch_size=4, num_workers=2, prefetch_factor="auto")
    assert values(loader) == values(fastload.DataLoader(range(400), batch_size=4))
    assert loader.num_workers == 2
    assert {worker.worker_id for worker in loader.stats().workers} == {0, 1}


def test_a_stream_is_never_read_twice():
    """A second worker would yield the stream again."""
    loader = fastload.DataLoader(Stream(), batch_size=10, num_workers="auto")
    for _ in range(3):
        assert [number for batch in values(loader) for number in batch] == list(range(100))


def test_an_error_comes_in_its_place_and_the_epoch_goes_on():
    """As with any number of workers."""
    loader = fastload.DataLoader(Failing(), batch_size=4, num_workers="auto")
    batches = iter(loader)
    for number in range(50):
        assert next(batches).tolist()[0] == 4 * number
    with pytest.raises(KeyError):
        next(batches)
    assert next(batches).tolist() == [204, 205, 206, 207]
    loader.close()


def test_a_loop_that_breaks_leaves_no_worker():
    """Dropping the iterator ends them."""
    loader = fastload.DataLoader(Slow(2000), batch_size=4, num_workers="auto")
    gc.disable()
    try:
        batches = iter(loader)
        for _ in batches:
            if children():
                break
        assert children()
        del batches
        deadline = time.monotonic() + 60
        while children() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not children()
    finally:
        gc.enable()


def test_an_epoch_goes_on_where_its_state_was_taken():
    """Also if it was taken while the number was being chosen."""
    expected = values(fastload.DataLoader(range(400), batch_size=4))
    loader = fastload.DataLoader(Slow(), batch_size=4, num_workers="auto")
    batches = iter(loader)
    head = [next(batches).tolist() for _ in range(30)]
    state = loader.state_dict()
    loader.close()
    other = fastload.DataLoader(Slow(), batch_size=4, num_workers="auto")
    other.load_state_dict(state)
    assert head + values(other) == expected


def test_a_loader_made_of_its_numbers_is_automatic_too():
    """Trainers make a loader anew from its attributes; copies are pickled."""
    loader = fastload.DataLoader(Slow(40), batch_size=4, num_workers="auto")
    again = fastload.DataLoader(
        Slow(40), num_workers=loader.num_workers, prefetch_factor=loader.prefetch_factor
    )
    assert isinstance(again.num_workers, Auto)
    assert isinstance(pickle.loads(pickle.dumps(loader)).num_workers, Auto)
    assert isinstance(loader.num_workers, int)


def test_another_word_is_refused():
    """As torch refuses any text."""
    with pytest.raises(TypeError):
        fastload.DataLoader(Slow(), num_workers="many")
    with pytest.raises(TypeError):
        fastload.DataLoader(Slow(), num_workers=2, prefetch_factor="deep")


def test_an_empty_dataset_is_an_empty_epoch():
    """Nothing to measure, nothing to choose."""
    loader = fastload.DataLoader([], num_workers="auto")
    assert values(loader) == values(loader) == []


def test_a_timeout_holds():
    """It needs a worker: without one nothing could be timed out."""
    loader = fastload.DataLoader(Slow(40), batch_size=4, num_workers="auto", timeout=240)
    assert values(loader) == values(fastload.DataLoader(range(40), batch_size=4))
    assert loader.num_workers >= 1
