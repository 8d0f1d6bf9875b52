"""Workers that end."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from multiprocessing import forkserver
from typing import Any

import torch

from tests.faults.case import ALL, Case, add, fault
from tests.faults.cases.acts import AT, At, Holds, Raise, Send, killed
from tests.faults.trial import Made, Stamped, Trial, describe

# Batch 5 is the deadly one; of batches 2 and 4, on the other worker, those that were complete.
GOOD = "samples 0 to (7|11|15|19), then WorkerDied: .*"
INDICES = r".*\[20, 21, 22, 23\]"


def _dies(number: int, name: str, description: str, act: Any, expect: str, **options: Any) -> None:
    def run(trial: Trial) -> str:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return trial.read(trial.loader(Stamped(At(act))))

    add(Case((number,), name, description, run, expect, **options))


_dies(1, "worker_is_killed", "a worker is killed", killed, f"{GOOD}SIGKILL{INDICES}")
_dies(4, "worker_is_terminated", "a worker gets SIGTERM", Send(signal.SIGTERM), f"{GOOD}SIGTERM")
_dies(
    5,
    "worker_reads_address_0",
    "a worker reads address 0",
    lambda: ctypes.string_at(0),
    f"{GOOD}SIGSEGV{INDICES}",
)
_dies(5, "worker_aborts", "a worker aborts", os.abort, f"{GOOD}SIGABRT{INDICES}")
_dies(5, "worker_gets_sigbus", "a worker gets SIGBUS", Send(signal.SIGBUS), f"{GOOD}SIGBUS")
_dies(5, "worker_gets_sigfpe", "a worker gets SIGFPE", Send(signal.SIGFPE), f"{GOOD}SIGFPE")
_dies(6, "worker_exits_0", "a worker calls os._exit(0)", lambda: os._exit(0), f"{GOOD}code 0")
_dies(7, "worker_exits_3", "a worker calls os._exit(3)", lambda: os._exit(3), f"{GOOD}code 3")
_dies(
    8,
    "worker_calls_sys_exit",
    "a dataset calls sys.exit()",
    lambda: sys.exit("bye"),
    "samples 0 to 19, then WorkerError: SystemExit.*bye",
)
_dies(
    9,
    "worker_raises_keyboard_interrupt",
    "a dataset raises KeyboardInterrupt",
    Raise(lambda: KeyboardInterrupt("mine")),
    "samples 0 to 19, then KeyboardInterrupt: mine",
)
_dies(
    9,
    "worker_raises_generator_exit",
    "a dataset raises GeneratorExit",
    Raise(lambda: GeneratorExit("mine")),
    "samples 0 to 19, then WorkerError: GeneratorExit.*mine",
)
_dies(
    9,
    "worker_raises_base_exception",
    "a dataset raises another BaseException",
    Raise(lambda: BaseException("mine")),
    "samples 0 to 19, then WorkerError: BaseException.*mine",
)


@fault(2, "the same, while another thread reads", expect=f"{GOOD}SIGKILL")
def worker_is_killed_thread_reads(trial: Trial) -> str:
    loader = trial.loader(Stamped(At(killed)))
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(trial.read(loader)))
    thread.start()
    thread.join()
    return said[0]


def _from(method: str, number: int = 1) -> None:
    def run(trial: Trial) -> str:
        dataset = Stamped(At(killed))
        return trial.read(trial.loader(dataset, multiprocessing_context=method))

    name, text = f"worker_is_killed_{method}", f"a worker is killed, started by {method}"
    add(Case((number,), name, text, run, f"{GOOD}SIGKILL", deadline_s=30))


_from("spawn")
_from("forkserver")


def _server() -> Any:
    return forkserver._forkserver


def _kill_server() -> None:
    """Kill the process that forkserver starts workers from, and wait until it is gone."""
    forkserver.ensure_running()
    pid = _server()._forkserver_pid
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # multiprocessing reaps it


@fault(
    1,
    "the server process of forkserver is killed before the first epoch",
    expect=f"^{ALL}$",
    deadline_s=30,
)
def server_is_killed_before_the_first_epoch(trial: Trial) -> str:
    _kill_server()
    return trial.read(trial.loader(multiprocessing_context="forkserver"))


@fault(
    1,
    "the server process of forkserver is killed between two epochs",
    expect=f"^{ALL}; {ALL}$",
    deadline_s=60,
)
def server_is_killed_between_two_epochs(trial: Trial) -> str:
    loader = trial.loader(multiprocessing_context="forkserver")
    first = trial.read(loader)
    _kill_server()
    return f"{first}; {trial.read(loader)}"


@fault(
    1,
    "the same, workers kept; and another epoch",
    expect=f"^{ALL}; ({ALL}|.*WorkerDied: .*The server process of forkserver.*); {ALL}$",
    deadline_s=60,
    is_a_race=True,
)
def server_of_kept_workers_is_killed(trial: Trial) -> str:
    loader = trial.loader(multiprocessing_context="forkserver", persistent_workers=True)
    first = trial.read(loader)
    _kill_server()
    return f"{first}; {trial.read(loader)}; {trial.read(loader)}"


@fault(
    1,
    "the server process of forkserver ends while it starts a worker",
    expect=f"^{ALL}$",
    deadline_s=60,
)
def server_ends_as_it_starts_a_worker(trial: Trial) -> str:
    connect = _server().connect_to_new_process

    def connect_late(fds: Any) -> Any:
        _server().connect_to_new_process = connect
        _kill_server()
        return connect(fds)

    _server().connect_to_new_process = connect_late
    return trial.read(trial.loader(multiprocessing_context="forkserver"))


@fault(
    1,
    "a worker is killed in worker_init_fn",
    expect="nothing, then WorkerDied: .*SIGKILL.*worker 1 ",
)
def worker_is_killed_at_its_start(trial: Trial) -> str:
    def init(worker_id: int) -> None:
        if worker_id == 1:
            killed()

    # The other worker's first batch is whole; torch may raise before it.
    text = trial.read(trial.loader(Stamped(), worker_init_fn=init))
    return text.replace("samples 0 to 3, then", "nothing, then")


@fault(1, "a worker is killed in collate_fn", expect=f"{GOOD}SIGKILL{INDICES}")
def worker_is_killed_in_collate(trial: Trial) -> str:
    def collate(samples: list[torch.Tensor]) -> torch.Tensor:
        if int(samples[1][0]) == AT:
            killed()
        return torch.stack(samples)

    return trial.read(trial.loader(Stamped(), collate_fn=collate))


class KillsWhenPickled:
    """Ends the process that pickles it."""

    def __reduce__(self) -> Any:
        killed()


@fault(
    (1, 15),
    "a worker is killed in the middle of writing a batch",
    expect=f"{GOOD}SIGKILL{INDICES}",
)
def worker_is_killed_while_writing(trial: Trial) -> str:
    def collate(samples: list[torch.Tensor]) -> Any:
        deadly = KillsWhenPickled() if int(samples[1][0]) == AT else None
        return [torch.stack(samples), deadly, torch.ones(1000)]

    loader = trial.loader(Stamped(), collate_fn=collate)
    return trial.read(loader, ids_of=lambda batch: [int(row[0]) for row in batch[0]])


@fault(
    1,
    "an idle worker is killed between two batches",
    expect="WorkerDied: .*SIGKILL",
)
def idle_worker_is_killed(trial: Trial) -> str:
    iterator = iter(trial.loader(Made(lambda index: os.getpid()), batch_size=None))
    os.kill(next(iterator), signal.SIGKILL)
    return trial.read(iterator, ids_of=lambda pid: [])


@fault(1, "all workers are killed at once", expect="WorkerDied: .*SIGKILL")
def all_workers_are_killed(trial: Trial) -> str:
    iterator = iter(trial.loader())
    next(iterator)
    for worker in iterator._workers:
        os.kill(worker.pid, signal.SIGKILL)
    return trial.read(iterator, ids_of=lambda batch: [])


@fault(
    1,
    "a new epoch after a worker was killed, workers kept",
    expect="WorkerDied.*, then all 64 samples",
)
def epoch_after_a_death(trial: Trial) -> str:
    is_deadly = torch.ones(1).share_memory_()  # type: ignore[no-untyped-call]

    def act(index: int) -> None:
        if index == AT and is_deadly:
            killed()

    loader = trial.loader(Stamped(act), persistent_workers=True)
    first = trial.read(loader)
    is_deadly.zero_()
    second = trial.read(loader)
    if trial.is_torch:
        loader._iterator._shutdown_workers()
    else:
        loader.close()
    return f"{first.splitlines()[0]}; and then, in the next epoch, then {second}"


@fault(
    16,
    "a worker is killed while it holds a lock of multiprocessing that it shares with the others",
    expect=f"{GOOD}SIGKILL",
)
def worker_dies_with_a_lock(trial: Trial) -> str:
    lock = torch.multiprocessing.get_context("fork").Lock()

    def act(index: int) -> None:
        with lock:
            if index == AT:
                killed()

    return trial.read(trial.loader(Stamped(act)))


@fault(17, "worker_init_fn raises", expect="nothing, then LookupError: .*mine.*worker_init_fn")
def init_raises(trial: Trial) -> str:
    def init(worker_id: int) -> None:
        raise LookupError("mine")

    return trial.read(trial.loader(worker_init_fn=init))


@fault(18, "worker_init_fn exits", expect="nothing, then WorkerDied: .*code 7")
def init_exits(trial: Trial) -> str:
    return trial.read(trial.loader(worker_init_fn=lambda worker_id: os._exit(7)))


@fault(
    19,
    "a dataset that can't be pickled, under spawn",
    expect="(PicklingError|AttributeError): .*lambda.*must be picklable",
    deadline_s=30,
)
def unpicklable_dataset(trial: Trial) -> str:
    return trial.read(trial.loader(Holds(lambda: 1), multiprocessing_context="spawn"))


def _fail_in_worker() -> Any:
    raise ImportError("this module is not there")


class OpensNowhere:
    """Can be pickled and not unpickled."""

    def __reduce__(self) -> Any:
        return _fail_in_worker, ()


@fault(
    20,
    "what the dataset imports can't be imported in a spawned worker",
    expect="nothing, then ImportError: this module is not there",
    deadline_s=30,
)
def import_fails_in_worker(trial: Trial) -> str:
    return trial.read(trial.loader(Holds(OpensNowhere()), multiprocessing_context="spawn"))


@fault(
    21,
    "the system refuses the third of eight workers",
    expect="BlockingIOError: .*Resource temporarily unavailable",
    leaves="pipe",  # multiprocessing forgets the pipes it had opened for this process
)
def fork_is_refused(trial: Trial) -> str:
    fork, left = os.fork, [2]

    def refusing() -> int:
        if left[0] == 0:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        left[0] -= 1
        return fork()

    os.fork = refusing
    try:
        return trial.read(trial.loader(num_workers=8))
    except OSError as error:
        return describe(error)
    finally:
        os.fork = fork
