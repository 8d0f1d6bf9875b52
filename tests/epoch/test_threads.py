"""Threads as workers: what the contract's tests can't say because processes do otherwise."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

import fastload
from fastload import DataLoader
from fastload._threads import team
from fastload._threads.thread_loop import running
from tests.contract.forks import Forked, needs_fork
from tests.seeded.datasets import Drawing, states_of_the_program

HANG_S = 60
LENGTH, BATCH = 24, 4
WHOLE = [list(range(first, first + BATCH)) for first in range(0, LENGTH, BATCH)]
THREADS: dict[str, Any] = {"num_workers": 2, "worker_method": "thread"}
KEPT = {**THREADS, "persistent_workers": True}
both = pytest.mark.parametrize("options", [THREADS, KEPT], ids=["new", "kept"])


def eventually(is_so: Any) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + HANG_S
    while not is_so():
        assert time.monotonic() < deadline_s, "it never came about"
        gc.collect()
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Threads end with what they worked for."""
    yield
    eventually(lambda: not running)


class Numbers:
    """Sample k is k; something is done before."""

    def __init__(self, before: Any = None, length: int = LENGTH) -> None:
        self.before, self.length = before, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        if self.before is not None:
            self.before(index)
        return index


def at(number: int, function: Any) -> Any:
    """Call a function for one sample."""
    return lambda index: function() if index == number else None


def lists(batches: Any) -> list[Any]:
    return [batch.tolist() for batch in batches]


def loader_of(before: Any = None, **options: Any) -> DataLoader:
    return DataLoader(Numbers(before), BATCH, **{**THREADS, **options})


def notes_of(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def through(iterator: Any) -> list[Any]:
    """Batches, and types of exceptions in the place of others."""
    seen: list[Any] = []
    while True:
        try:
            seen.append(next(iterator).tolist())
        except StopIteration:
            return seen
        except BaseException as error:
            seen.append(type(error))


# Arguments


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"worker_method": "threads"}, "'process' or 'thread', but got 'threads'"),
        ({**THREADS, "multiprocessing_context": "fork"}, "multiprocessing_context='fork'"),
        ({**THREADS, "max_worker_restarts": 1}, "max_worker_restarts=1"),
        ({**THREADS, "concurrent_samples": 2}, "concurrent_samples=2"),
        ({**THREADS, "workers_per_batch": 2, "seed": 0}, "workers_per_batch=2"),
        ({"worker_method": "thread", "num_workers": "auto"}, 'num_workers="auto"'),
        ({**THREADS, "prefetch_factor": "auto"}, 'prefetch_factor="auto"'),
    ],
)
def test_what_does_not_go_with_threads_is_refused_at_construction(options, words):
    """With both values."""
    with pytest.raises(ValueError, match=words):
        DataLoader(Numbers(), **options)


def test_samples_that_are_awaited_are_refused():
    """Threads have no event loop."""

    class Awaited(Numbers):
        async def __getitem__(self, index: int) -> int:
            return index

    with pytest.raises(ValueError, match=r"Awaited.*`async def`.*'process'"):
        DataLoader(Awaited(), **THREADS)


def test_the_method_survives_copies_and_replace():
    """It is an attribute as it was given."""
    loader = DataLoader(range(8), BATCH, **THREADS)
    others = [copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))]
    others += [loader.replace(), loader.replace(batch_size=2)]
    assert {each.worker_method for each in others} == {"thread"}
    assert loader.replace(num_workers=0).worker_method == "thread"
    assert DataLoader(range(8)).worker_method == "process"


def test_data_that_can_be_neither_pickled_nor_forked_is_loaded():
    """Such as a dataset, and batches, that hold a lock."""
    lock = threading.Lock()
    dataset = Numbers(before=lambda index: contextlib.closing(lock))
    loader = DataLoader(dataset, BATCH, collate_fn=lambda samples: (samples, lock), **THREADS)
    assert [samples for samples, _ in loader] == WHOLE
    assert all(found is lock for _, found in loader)


def test_no_process_is_started():
    """Samples are loaded by other threads of this one."""
    here, where = os.getpid(), set()
    list(loader_of(lambda index: where.add((os.getpid(), threading.get_ident()))))
    assert {pid for pid, _ in where} == {here}
    assert threading.get_ident() not in {thread for _, thread in where}
    assert len(where) == 2


# Errors


class Mine(Exception):
    """Nobody else's."""


def fail(error: Any = Mine) -> None:
    raise error


@pytest.mark.parametrize(
    ("raised", "arrives"),
    [
        (Mine, Mine),
        (StopIteration, RuntimeError),
        (SystemExit, fastload.WorkerError),
        (GeneratorExit, fastload.WorkerError),
        (KeyboardInterrupt, KeyboardInterrupt),
    ],
)
@both
def test_whatever_a_dataset_raises_takes_the_place_of_its_batch(options, raised, arrives):
    """No thread ends of it, and the other batches come."""
    with loader_of(at(9, lambda: fail(raised("words"))), **options) as loader:
        for _ in range(2):
            assert through(iter(loader)) == [*WHOLE[:2], arrives, *WHOLE[3:]]


def test_an_error_names_sample_worker_and_batch_and_shows_its_line():
    """It is the very exception that was raised."""
    error = Mine()
    with pytest.raises(Mine) as caught:
        list(loader_of(at(9, lambda: fail(error))))
    assert caught.value is error
    assert "at dataset index 9" in notes_of(error)
    assert "in fastload worker 0, batch 2" in notes_of(error)
    assert "fail" in {entry.name for entry in caught.traceback}


def test_errors_of_collate_and_sampler_come_in_their_place():
    """As a dataset's."""

    def collate(samples: list[int]) -> torch.Tensor:
        return fail() if 4 in samples else torch.tensor(samples)

    def sampler() -> Iterator[int]:
        yield from range(2 * BATCH)
        fail()

    loader = DataLoader(Numbers(), BATCH, collate_fn=collate, **THREADS)
    assert through(iter(loader)) == [WHOLE[0], Mine, *WHOLE[2:]]
    loader = DataLoader(Numbers(), BATCH, sampler=sampler(), **THREADS)
    assert through(iter(loader)) == [*WHOLE[:2], Mine]


@both
def test_an_error_of_worker_init_fn_is_raised_for_each_batch_of_its_worker(options):
    """Anew each time: no exception knows who caught the one before."""

    def init(worker_id: int) -> None:
        if worker_id == 1:
            fail()

    with loader_of(worker_init_fn=init, **options) as loader:
        for _ in range(2):
            assert through(iter(loader)) == [WHOLE[0], Mine, WHOLE[2], Mine, WHOLE[4], Mine]
        iterator = iter(loader)
        next(iterator)
        with pytest.raises(Mine) as caught:
            next(iterator)
        assert "in worker_init_fn of worker 1" in notes_of(caught.value)


def test_samples_that_fail_are_left_out_and_counted():
    """With ``on_error``, up to ``max_errors``."""
    loader = loader_of(at(9, fail), on_error="skip", max_errors=1)
    assert lists(loader) == [*WHOLE[:2], [8, 10, 11], *WHOLE[3:]]
    assert [each.index for each in loader.stats().skipped] == [9]
    loader = loader_of(lambda index: index % 2 and fail(), on_error="skip", max_errors=4)
    with pytest.raises(fastload.TooManyErrors, match="max_errors=4"):
        list(loader)


def test_a_thread_that_does_not_return_is_a_timeout_and_is_left_behind_by_close(monkeypatch):
    """Both say which batch it has and where it is; the call after a timeout goes on."""
    monkeypatch.setattr(team, "LONGEST_CLOSE_S", 0.2)
    go_on = threading.Event()

    def waits_for_ever() -> None:
        assert go_on.wait(HANG_S)

    loader = loader_of(at(5, waits_for_ever), timeout=0.2)
    iterator = iter(loader)
    assert next(iterator).tolist() == WHOLE[0]
    for _ in range(2):
        with pytest.raises(fastload.LoadingTimeout, match=r"(?s)worker 1 .*\[4, 5.*waits_for_ever"):
            next(iterator)
    with pytest.warns(RuntimeWarning, match=r"(?s)worker 1 \(batch 1, .*\[4.*waits_for_ever") as w:
        loader.close()
    assert w[0].filename == __file__
    with pytest.raises(RuntimeError, match="shut down"):
        next(iterator)
    go_on.set()


def test_closing_wakes_who_waits():
    """In another thread, which gets an error instead of waiting for ever."""
    go_on, found = threading.Event(), []
    loader = loader_of(lambda index: go_on.wait(HANG_S))
    iterator = iter(loader)

    def take() -> None:
        with pytest.raises(RuntimeError, match="shut down"):
            next(iterator)
        found.append(True)

    waiting = threading.Thread(target=take)
    waiting.start()
    closing = threading.Timer(0.1, go_on.set)
    closing.start()
    loader.close()
    waiting.join(HANG_S)
    closing.join()
    assert found == [True]


# Life and death


@both
def test_an_iterator_that_is_dropped_is_gone_although_its_threads_are_busy(options):
    """They end when their calls return, and load nothing more."""
    go_on, begun, loaded = threading.Event(), threading.Event(), []

    def wait(index: int) -> None:
        begun.set()
        assert go_on.wait(HANG_S)
        loaded.append(index)

    loader = loader_of(wait, **options)
    iterator = iter(loader)
    assert begun.wait(HANG_S)
    gone = weakref.ref(iterator)
    del iterator
    loader._iterator = None
    assert gone() is None
    assert running
    go_on.set()
    eventually(lambda: not running)
    assert len(loaded) <= 2 * BATCH


def test_nothing_keeps_a_batch_or_an_error_that_was_given_away():
    """No thread does while it waits for its next task."""

    class Thing:
        pass

    with DataLoader(
        Numbers(at(LENGTH - 1, fail)), BATCH, collate_fn=lambda samples: Thing(), **KEPT
    ) as loader:
        iterator = iter(loader)
        seen = [weakref.ref(next(iterator)) for _ in range(LENGTH // BATCH - 1)]
        eventually(lambda: not any(each() for each in seen))
        with pytest.raises(Mine) as caught:
            next(iterator)
        failed = weakref.ref(caught.value)
        del caught
        eventually(lambda: failed() is None)
        assert len(running) == 2


def test_kept_threads_are_those_of_the_next_epoch():
    """And of two iterators at once; without ``persistent_workers`` each epoch has new ones."""
    idents: set[Any] = set()
    with loader_of(lambda index: idents.add(threading.current_thread()), **KEPT) as loader:
        one, other = iter(loader), iter(loader)
        assert [[a.tolist(), b.tolist()] for a, b in zip(one, other, strict=True)] == [
            [batch, batch] for batch in WHOLE
        ]
        del one, other
        assert lists(loader) == WHOLE
        assert len(idents) == 2
        assert set(loader._iterator._workers) == idents
    idents.clear()
    loader = loader_of(lambda index: idents.add(threading.current_thread()))
    assert [lists(loader), lists(loader)] == [WHOLE, WHOLE]
    assert len(idents) == 4


def test_many_loaders_at_once_do_not_mix():
    """Each has threads of its own."""
    loaders = [DataLoader(range(k, k + LENGTH), BATCH, collate_fn=list, **KEPT) for k in range(8)]
    for row in zip(*loaders, strict=True):
        assert [batch[0] - row[0][0] for batch in row] == list(range(8))
    for loader in loaders:
        loader.close()


def test_later_batches_come_first_where_order_does_not_matter():
    """A thread that is stuck does not hold up the other."""
    go_on = threading.Event()
    loader = loader_of(at(0, lambda: go_on.wait(HANG_S)), in_order=False)
    iterator = iter(loader)
    assert next(iterator).tolist() == WHOLE[1]
    go_on.set()
    assert sorted([WHOLE[1], *lists(iterator)]) == WHOLE


def test_so_many_batches_are_loaded_ahead_as_asked_for():
    """``prefetch_factor`` for each thread."""
    loaded: list[int] = []
    loader = loader_of(loaded.append, prefetch_factor=1)
    iterator = iter(loader)
    eventually(lambda: len(loaded) == 2 * BATCH)
    next(iterator)
    eventually(lambda: len(loaded) == 3 * BATCH)
    time.sleep(0.05)
    assert len(loaded) == 3 * BATCH


@needs_fork
@both
def test_a_forked_child_is_told_that_the_iterator_is_not_its_own(options):
    """It touches none of it, and may use the loader anew."""
    with loader_of(**options) as loader:
        iterator = iter(loader)
        next(iterator)
        is_fine, text = Forked(lambda: next(iterator)).result()
        assert not is_fine
        assert text.startswith("ForeignProcessError")
        local = [iterator]
        assert Forked(local.clear).result() == (True, None)
        assert Forked(loader.close).result() == (True, None)
        assert Forked(lambda: lists(loader)).result() == (True, WHOLE)
        assert lists(iterator) == WHOLE[1:]


def run(program: str, **options: Any) -> Any:
    """A program in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


PROGRAM = """
    import sys, time, threading
    import fastload

    class Slow:
        def __len__(self):
            return 8
        def __getitem__(self, index):
            if index == {slow}:
                {what}
            return index

    loader = fastload.DataLoader(Slow(), num_workers=2, worker_method="thread")
"""


@pytest.mark.parametrize("what", ["time.sleep(600)", "threading.Event().wait()"])
def test_a_program_that_ends_does_not_wait_for_a_thread_that_hangs(what):
    """Nor is it aborted."""
    program = PROGRAM.format(slow=1, what=what) + "    print(next(iter(loader)).tolist())"
    output, errors = run(program).communicate(timeout=HANG_S)
    assert (output, errors) == (b"[0]\n", b"")


def test_ctrl_c_hits_a_loop_that_waits_and_loses_nothing():
    """The next call goes on."""
    program = (
        PROGRAM.format(slow=1, what="interrupted.wait(60)")
        + """
    interrupted = threading.Event()
    iterator, seen = iter(loader), []
    print("ready", flush=True)
    while True:
        try:
            seen.append(next(iterator).item())
        except KeyboardInterrupt:
            interrupted.set()
            seen.append("interrupted")
        except StopIteration:
            break
    print(seen)
    """
    )
    process = run(program)
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=HANG_S)
    assert output.decode().strip() == "[0, 'interrupted', 1, 2, 3, 4, 5, 6, 7]"
    assert errors == b""


def test_a_patched_name_takes_the_argument():
    """``torch.utils.data.DataLoader`` is ours then."""
    program = """
        import fastload
        fastload.patch()
        from torch.utils.data import DataLoader
        loader = DataLoader(range(4), num_workers=1, worker_method="thread", collate_fn=list)
        print(list(loader))
    """
    output, _ = run(program).communicate(timeout=HANG_S)
    assert output == b"[[0], [1], [2], [3]]\n"


# What a thread is told


def test_each_thread_has_its_worker_info_and_no_other_thread_has_any():
    """The function is torch's, under whatever name it was imported."""
    seen: set[Any] = set()

    def look(index: int) -> None:
        info = get_worker_info()
        seen.add((index // BATCH % 2, info.id, info.num_workers, info.worker_method))

    torch.manual_seed(3)
    loader = loader_of(look)
    iterator = iter(loader)
    while any(True for _ in itertools.islice(iterator, 1)):
        assert get_worker_info() is None
    assert seen == {(0, 0, 2, "thread"), (1, 1, 2, "thread")}


def test_a_default_collate_in_a_users_function_makes_ordinary_tensors():
    """torch's makes files in shared memory where it believes to be in another process."""
    loader = DataLoader(
        [torch.ones(3)] * 8, BATCH, collate_fn=lambda samples: default_collate(samples), **THREADS
    )
    assert [batch.is_shared() for batch in loader] == [False, False]


@pytest.mark.skipif(
    not hasattr(torch.random, "thread_safe_generator"), reason="torch has no such function yet"
)
def test_generators_of_a_thread_give_the_same_numbers_each_time():
    """As torch's documentation tells transforms to draw in threads."""

    def draw(index: int) -> float:
        generator = torch.random.thread_safe_generator()
        return float(torch.rand((), generator=generator))

    class Draws(Numbers):
        def __getitem__(self, index: int) -> Any:
            return index, draw(index)

    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append([batch[1].tolist() for batch in DataLoader(Draws(), BATCH, **THREADS)])
    assert found[0] == found[1]
    assert len({number for batch in found[0] for number in batch}) == LENGTH


def test_statistics_name_threads_as_workers():
    """No bytes cross in shared memory."""
    loader = loader_of()
    list(loader)
    stats = loader.stats()
    assert (stats.batches, stats.samples, stats.shared_bytes) == (6, LENGTH, 0)
    assert [(each.worker_id, each.batches) for each in stats.workers] == [(0, 3), (1, 3)]


class Counted(IterableDataset):
    """A stream whose iterators are counted; each thread gives its share."""

    def __init__(self) -> None:
        self.begun = 0

    def __iter__(self) -> Iterator[int]:
        self.begun += 1
        info = get_worker_info()
        yield from range(info.id, LENGTH, info.num_workers)


@both
def test_each_thread_reads_its_own_iterator_of_a_stream(options):
    """Everything comes once, in torch's order."""
    dataset = Counted()
    with DataLoader(dataset, BATCH, **options) as loader:
        for epoch in (1, 2):
            batches = lists(loader)
            assert batches[:2] == [[0, 2, 4, 6], [1, 3, 5, 7]]
            assert sorted(itertools.chain.from_iterable(batches)) == list(range(LENGTH))
            assert dataset.begun == 2 * epoch


@pytest.mark.parametrize("second", [THREADS, KEPT, {"num_workers": 2}, {}], ids=str)
@pytest.mark.parametrize("first", [THREADS, {"num_workers": 2}, {}], ids=str)
def test_an_epoch_goes_on_from_a_state_whatever_its_workers_were(first, second):
    """And whatever those are that go on."""
    if not (first or second):
        pytest.skip("nothing with threads")
    whole, head = shuffled(first), shuffled(first)
    expected = lists(whole)
    iterator = iter(head)
    seen = lists(itertools.islice(iterator, 2))
    state = head.state_dict()
    del iterator
    with shuffled(second) as rest:
        rest.load_state_dict(state)
        assert seen + lists(rest) == expected


def shuffled(options: dict[str, Any]) -> DataLoader:
    generator = torch.Generator().manual_seed(5)
    return DataLoader(Numbers(), BATCH, shuffle=True, generator=generator, **options)


class Remembering(Numbers):
    """Counts what it has loaded, and how often it was told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = self.told = 0

    def __getitem__(self, index: int) -> int:
        self.loaded += 1
        return index

    def state_dict(self) -> dict[str, int]:
        return {"loaded": self.loaded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loaded = state["loaded"]
        self.told += 1


def test_a_datasets_own_state_is_loaded_once():
    """Into the one that all threads share."""
    loader = DataLoader(Remembering(), BATCH)
    next(iter(loader))
    dataset = Remembering()
    rest = DataLoader(dataset, BATCH, **THREADS)
    rest.load_state_dict(loader.state_dict())
    assert lists(rest) == WHOLE[1:]
    assert (dataset.told, dataset.loaded) == (1, LENGTH)


@pytest.mark.parametrize("second", [THREADS, KEPT, {"num_workers": 2}], ids=str)
def test_a_stream_goes_on_from_a_state_by_being_read_again(second):
    """As with processes, for as many workers."""
    expected = lists(DataLoader(Counted(), BATCH, **THREADS))
    first = DataLoader(Counted(), BATCH, **THREADS)
    iterator = iter(first)
    head = lists(itertools.islice(iterator, 2))
    with DataLoader(Counted(), BATCH, **second) as rest:
        rest.load_state_dict(first.state_dict())
        assert head + lists(rest) == expected


# With a seed

OWNED = ("generator", "random_state", "own_torch", "own_python")


def seeded(dataset: Any, **options: Any) -> list[torch.Tensor]:
    with DataLoader(dataset, seed=7, batch_size=BATCH, shuffle=True, **options) as loader:
        return [torch.cat(list(loader)) for _ in range(2)]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("redo", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_stream_of_a_seed_is_that_of_no_workers(workers, redo, persistent):
    """Order and draws from generators that the dataset owns; all of the program's are as before."""
    options = {"num_workers": workers, "worker_method": "thread", "persistent_workers": persistent}
    dataset = Drawing(37, OWNED)
    expected = seeded(Drawing(37, OWNED))
    before = [states_of_the_program(), dataset.generator.bit_generator.state]
    found = seeded(dataset, redo=redo, **options)
    assert all(map(torch.equal, found, expected))
    assert [states_of_the_program(), dataset.generator.bit_generator.state] == before


class Noise:
    """A collate function that owns a generator."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, samples: list[int]) -> torch.Tensor:
        return torch.tensor(samples) + torch.from_numpy(self.rng.random(len(samples)))


class Blurred(IterableDataset):
    """A stream that owns a generator."""

    def __init__(self) -> None:
        self.rng = random.Random(0)

    def __iter__(self) -> Iterator[float]:
        for index in range(LENGTH):
            yield index + self.rng.random()


@pytest.mark.parametrize("workers", [1, 2])
def test_generators_of_collate_functions_and_streams_are_copied_too(workers):
    """One for each thread, set as without workers."""
    options = {"num_workers": workers, "worker_method": "thread"}
    with pytest.warns(match="one worker reads") if workers == 2 else contextlib.nullcontext():
        pytest.MonkeyPatch().setattr("fastload._epoch.seeded._has_warned", [])
        found = list(DataLoader(Blurred(), BATCH, seed=7, **options))
    assert all(map(torch.equal, found, DataLoader(Blurred(), BATCH, seed=7)))
    found = seeded(Numbers(), collate_fn=Noise(), **options)
    assert all(map(torch.equal, found, seeded(Numbers(), collate_fn=Noise())))


def test_a_dataset_that_cannot_be_copied_is_refused_if_it_has_generators():
    """Before anything is loaded, naming both; without generators it is shared."""

    class Uncopyable(Numbers):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("this stays here")

    dataset = Uncopyable(length=8)
    assert len(list(DataLoader(dataset, BATCH, seed=1, **THREADS))) == 2
    dataset.rng = np.random.default_rng(0)
    loader = DataLoader(dataset, BATCH, seed=1, **THREADS)
    with pytest.raises(ValueError, match=r"(?s)dataset\.rng.*TypeError: this stays here.*process"):
        iter(loader)


DRAWS = {
    "the module random": random.random,
    "numpy.random": np.random.random,
    "torch's default generator": lambda: torch.rand(()),
}


class Drawn(IterableDataset):
    """A stream that draws from a global generator."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def __iter__(self) -> Iterator[int]:
        for index in range(LENGTH):
            self.draw()
            yield index


def drawing(where: str, draw: Any) -> dict[str, Any]:
    def collate(samples: list[int]) -> list[int]:
        draw()
        return samples

    return {
        "sample": {"dataset": Numbers(lambda index: draw())},
        "collate": {"dataset": Numbers(), "collate_fn": collate},
        "stream": {"dataset": Drawn(draw)},
    }[where]


@pytest.mark.parametrize("where", ["sample", "collate", "stream"])
@pytest.mark.parametrize("name", DRAWS)
def test_a_first_batch_that_draws_from_a_global_generator_is_refused(name, where):
    """Before any batch comes; the generator is named, and is as it was."""
    arguments = drawing(where, DRAWS[name])
    before = states_of_the_program()
    loader = DataLoader(
        batch_size=BATCH, seed=1, num_workers=1, worker_method="thread", **arguments
    )
    with pytest.raises(ValueError, match=rf"{name}.*worker_method='process'"):
        iter(loader)
    assert states_of_the_program() == before
    assert len(list(loader.replace(worker_method="process"))) == LENGTH // BATCH


class Items(IterableDataset):
    """The training process reads items; workers make samples of them."""

    def __iter__(self) -> Iterator[int]:
        yield from range(LENGTH)

    def load(self, item: int) -> tuple[int, int]:
        return item, threading.get_ident()


def test_every_thread_loads_the_items_that_the_training_process_reads():
    """In the order of the stream."""
    loader = DataLoader(Items(), 1, seed=3, **THREADS)
    items, threads = zip(*(map(torch.Tensor.item, batch) for batch in loader), strict=True)
    assert items == tuple(range(LENGTH))
    assert len(set(threads)) == 2
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_parquet_stream_is_the_same_as_without_workers(batch_size, tmp_path):
    """With a seed, whoever makes its batches."""
    from fastload import ParquetStream
    from fastload.datasets import write_parquet

    file = tmp_path / "numbers.parquet"
    write_parquet({"x": list(range(100))}, file, rows_per_group=10)
    own = {"batch_size": 4} if batch_size is None else {}
    found = []
    for options in ({}, THREADS, {**THREADS, "num_workers": 3}):
        stream = ParquetStream(file, shuffle=True, **own)
        loader = DataLoader(stream, batch_size, seed=3, **options)
        found.append([batch["x"].tolist() for batch in loader])
    assert found[0] == found[1] == found[2]
    assert sorted(itertools.chain.from_iterable(found[0])) == list(range(100))
