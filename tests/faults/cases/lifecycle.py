"""Iterators that are left, doubled, shared, forked, and used from threads and handlers."""

from __future__ import annotations

import copy
import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import time
from typing import Any

import torch

from tests.faults.case import ALL, fault
from tests.faults.cases.forks import in_a_child
from tests.faults.trial import Made, Stamped, Trial, children, descriptors


def _end(trial: Trial, loader: Any) -> None:
    """End workers that are kept."""
    if not trial.is_torch:
        loader.close()
    elif loader._iterator is not None:
        loader._iterator._shutdown_workers()


@fault(73, "an epoch is left at its first batch, 30 times", expect="left 30 times", deadline_s=20)
def early_breaks(trial: Trial) -> str:
    loader = trial.loader()
    for _ in range(30):
        for _batch in loader:
            break
    return "left 30 times"


@fault(
    73,
    "the same 300 times, workers kept; descriptors and workers are counted",
    expect=r"left 300 times, 2 workers, \+0 descriptors",
    deadline_s=20,
)
def early_breaks_workers_kept(trial: Trial) -> str:
    loader = trial.loader(persistent_workers=True)
    for turn in range(300):
        for _batch in loader:
            break
        if turn == 5:
            gc.collect()
            before = len(descriptors())
    gc.collect()
    text = f"left 300 times, {len(children())} workers, +{len(descriptors()) - before} descriptors"
    _end(trial, loader)
    return text


@fault(75, "two iterators of one loader, in turn", expect=f"{ALL}; {ALL}")
def two_iterators(trial: Trial) -> str:
    loader = trial.loader()
    return _in_turn(trial, iter(loader), iter(loader))


@fault(76, "the same, workers kept", expect=f"{ALL}; {ALL}")
def two_iterators_workers_kept(trial: Trial) -> str:
    loader = trial.loader(persistent_workers=True)
    text = _in_turn(trial, iter(loader), iter(loader))
    _end(trial, loader)
    return text


def _in_turn(trial: Trial, *iterators: Any) -> str:
    seen: list[list[int]] = [[] for _ in iterators]
    for _ in range(17):
        for ids, iterator in zip(seen, iterators, strict=True):
            ids += [int(row[0]) for row in next(iterator, [])]
    texts = []
    for ids in seen:
        trial.ids = ids
        texts.append(trial.seen())
    return "; ".join(texts)


@fault(77, "an epoch is left while batches are in flight, then a new one", expect=f"^{ALL}$")
def new_epoch_after_a_break(trial: Trial) -> str:
    loader = trial.loader(Stamped(lambda k: time.sleep(0.005)), persistent_workers=True)
    for _ in range(5):
        for batch in loader:
            if int(batch[0][0]) == 8:
                break
    text = trial.read(loader)
    _end(trial, loader)
    return text


@fault(78, "a loop within a loop over the same loader", expect=f"^16 times {ALL}$")
def nested_loops(trial: Trial) -> str:
    loader = trial.loader()
    texts = {trial.read(loader) for _ in trial.loader()}
    return f"16 times {', '.join(texts)}"


def _inner(trial: Trial) -> Any:
    return lambda index: len(list(trial.loader(list(range(8)), num_workers=1)))


@fault(79, "a loader with a worker within a worker", expect=r"^\[2, 2\]$")
def loader_in_a_worker(trial: Trial) -> str:
    batches = trial.loader(Made(_inner(trial), 2), batch_size=None)
    return str(list(batches))


@fault(
    80,
    "workers are forked while another thread holds the lock of logging",
    expect=f"^{ALL}$",
)
def fork_while_a_lock_is_held(trial: Trial) -> str:
    import logging

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with logging._lock:  # type: ignore[attr-defined]
            held.set()
            done.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    timer = threading.Timer(0.3, done.set)  # logging itself waits for it in os.fork
    timer.start()
    dataset = Stamped(lambda index: logging.getLogger("data").debug("sample"))
    text = trial.read(trial.loader(dataset, timeout=4))
    done.set()
    thread.join()
    timer.join()
    return text


@fault(80, "workers are forked after torch has computed in several threads", expect=f"^{ALL}$")
def fork_after_openmp(trial: Trial) -> str:
    torch.set_num_threads(4)
    torch.ones(512, 512) @ torch.ones(512, 512)
    torch.ones(1 << 20).sum()
    return trial.read(trial.loader(Stamped(lambda k: torch.ones(512, 512) @ torch.ones(512, 512))))


@fault(
    81,
    "a forked child uses its parent's iterator",
    expect=f"child: ForeignProcessError.*parent: {ALL}",
    deadline_s=15,
)
def iterator_used_in_a_child(trial: Trial) -> str:
    iterator = iter(trial.loader())
    first = next(iterator)
    child = in_a_child(lambda: str(len(next(iterator))))
    text = trial.read([first])
    ids = list(trial.ids)
    trial.read(iterator)
    trial.ids[:0] = ids
    del text
    return f"child: {child}; parent: {trial.seen()}"


@fault(
    82,
    "four threads take batches from one iterator",
    expect="every batch went to one thread",
    deadline_s=15,
)
def several_threads(trial: Trial) -> str:
    iterator = iter(trial.loader(Made(lambda k: torch.tensor(k), 800)))
    taken: list[list[int]] = [[] for _ in range(4)]

    def take(mine: list[int]) -> None:
        for batch in iterator:
            mine += batch.tolist()

    threads = [threading.Thread(target=take, args=(mine,), daemon=True) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = sorted(itertools.chain(*taken))
    return "every batch went to one thread" if ids == list(range(800)) else f"{len(ids)} samples"


@fault(83, "the thread that made an iterator ends; another goes on", expect=f"^{ALL}$")
def thread_of_an_iterator_ends(trial: Trial) -> str:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(iter(trial.loader())))
    thread.start()
    thread.join()
    return trial.read(made.pop())


class _Interrupt(Exception):
    pass


@fault(
    84,
    "a signal handler raises while next waits, again and again",
    expect=rf"^[1-9]\d* times, {ALL}$",
    deadline_s=20,
)
def handler_raises(trial: Trial) -> str:
    def handle(_: int, frame: Any) -> None:
        if frame.f_code.co_name in {"select", "wait", "_poll", "poll"}:  # the loader waits
            raise _Interrupt

    signal.signal(signal.SIGALRM, handle)
    iterator = iter(trial.loader(Stamped(lambda k: time.sleep(0.002))))
    ids: list[int] = []
    times = 0
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.007)
    while True:
        try:
            batch = next(iterator, None)
            if batch is None:
                break
            ids += [int(row[0]) for row in batch]
        except _Interrupt:
            times += 1
        except RuntimeError as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return f"{type(error).__name__} said so" if "interrupted" in str(error) else str(error)
    signal.setitimer(signal.ITIMER_REAL, 0)
    trial.ids = ids
    return f"{times} times, {trial.seen()}"


@fault(85, "a storm of signals with a handler", expect=f"^{ALL}$")
def signal_storm(trial: Trial) -> str:
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    text = trial.read(trial.loader(Stamped(lambda k: time.sleep(0.002))))
    signal.setitimer(signal.ITIMER_REAL, 0)
    return text


@fault(86, "the program ignores SIGCHLD", expect=f"^{ALL}$")
def sigchld_is_ignored(trial: Trial) -> str:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return trial.read(trial.loader())


@fault(
    86,
    "the program ignores SIGCHLD, and a worker is killed",
    expect="samples 0 to (7|11|15|19), then WorkerDied",
)
def sigchld_is_ignored_and_a_worker_dies(trial: Trial) -> str:
    from tests.faults.cases.acts import At, killed

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return trial.read(trial.loader(Stamped(At(killed))))


@fault(
    86,
    "the program reaps all children itself, and a worker is killed",
    expect="samples 0 to (7|11|15|19), then WorkerDied.*(SIGKILL|unknown reason)",
    is_a_race=True,
)
def children_are_reaped_elsewhere(trial: Trial) -> str:
    from tests.faults.cases.acts import At, killed

    ended = threading.Event()

    def reap() -> None:
        while not ended.wait(0.001):
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                continue

    thread = threading.Thread(target=reap)
    thread.start()
    text = trial.read(trial.loader(Stamped(At(killed))))
    ended.set()
    thread.join()
    return text


@fault(86, "an unrelated child of the program dies", expect=f"^{ALL}$")
def unrelated_child_dies(trial: Trial) -> str:
    iterator = iter(trial.loader(Stamped(lambda k: time.sleep(0.002))))
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    text = trial.read(iterator)
    os.waitpid(child, 0)
    return text


@fault(87, "a loader with a live iterator is copied", expect=f"^{ALL}; {ALL}$")
def loader_is_copied(trial: Trial) -> str:
    loader = trial.loader(list(map(float, range(64))), persistent_workers=True)

    def ids_of(batch: torch.Tensor) -> list[int]:
        return batch.int().tolist()

    iterator = iter(loader)
    first = next(iterator).tolist()
    assert first == [0.0, 1.0, 2.0, 3.0]
    copies = [copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))]
    texts = [trial.read(other, ids_of=ids_of) for other in copies]
    for other in (*copies, loader):
        _end(trial, other)
    return "; ".join(texts)


def _load_in_a_daemon(trial: Trial, answers: Any) -> None:
    answers.put(trial.read(trial.loader()))


@fault(89, "a loader with workers in a daemonic process", expect=f"^{ALL}$")
def daemonic_process(trial: Trial) -> str:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_load_in_a_daemon, args=(trial, answers), daemon=True)
    process.start()
    text: str = answers.get()
    process.join()
    process.close()
    answers.close()
    return text.splitlines()[0]


@fault(91, "the program changes its folder while loading", expect=f"^{ALL}$")
def folder_is_changed(trial: Trial) -> str:
    iterator = iter(trial.loader())
    os.chdir("/")
    return trial.read(iterator)


@fault(91, "a system without memfd", expect=f"^{ALL}$")
def no_memfd(trial: Trial) -> str:
    def refused(*_: Any) -> int:
        raise OSError(38, "Function not implemented")

    os.memfd_create = refused  # type: ignore[assignment]
    return trial.read(trial.loader(Stamped(size=100_000)))
