"""Workers that do not end and do not answer."""

from __future__ import annotations

import time
from typing import Any

import torch

from tests.faults.case import ALL, Case, add, fault
from tests.faults.cases import acts
from tests.faults.cases.acts import AT, At
from tests.faults.trial import EndsTheProgram, Stamped, Trial

BUSY = {
    "asleep": acts.sleep,
    "spinning": acts.spin,
    "in_c_with_the_gil": acts.hold_the_gil,
    "deaf_to_sigterm": acts.ignore_sigterm_and_sleep,
    "stopped": acts.stop,
}


def _times_out(state: str, act: Any) -> None:
    def run(trial: Trial) -> str:
        return trial.read(trial.loader(Stamped(At(act)), timeout=1))

    expect = rf"samples 0 to 19, then LoadingTimeout: .*worker \d .*{AT}"
    text = f"timeout=1, a worker is {state.replace('_', ' ')}"
    add(Case((10,), f"timeout_worker_{state}", text, run, expect))


def _is_dropped(state: str, act: Any) -> None:
    def run(trial: Trial) -> str:
        iterator = iter(trial.loader(Stamped(At(act))))
        for _ in range(5):
            next(iterator)
        started = time.monotonic()
        del iterator
        return f"gone in {'time' if time.monotonic() - started < 3 else 'more than 3 s'}"

    text = f"an iterator is dropped while a worker is {state.replace('_', ' ')}"
    add(Case((13,), f"dropped_worker_{state}", text, run, "gone in time"))


def _is_left_at_exit(state: str, act: Any) -> None:
    def run(trial: Trial) -> str:
        global _kept
        _kept = iter(trial.loader(Stamped(At(act))))
        for _ in range(5):
            next(_kept)
        return "exits"

    text = f"the program ends while a worker is {state.replace('_', ' ')}"
    name = f"exit_worker_{state}"
    add(Case((14, 74), name, text, run, "^exits$", is_about_the_end=True))


_kept: Any = None

for _state, _act in BUSY.items():
    _times_out(_state, _act)
    _is_dropped(_state, _act)
    _is_left_at_exit(_state, _act)


@fault(
    13,
    "an iterator is dropped while eight workers ignore SIGTERM and sleep",
    expect="gone in time",
    deadline_s=15,
)
def many_deaf_workers(trial: Trial) -> str:
    started_all = torch.multiprocessing.get_context("fork").Semaphore(0)

    def act(index: int) -> None:
        started_all.release()
        acts.ignore_sigterm_and_sleep()

    iterator = iter(trial.loader(Stamped(act), num_workers=8))
    for _ in range(8):
        started_all.acquire()
    started = time.monotonic()
    del iterator
    return f"gone in {'time' if time.monotonic() - started < 4 else 'more than 4 s'}"


@fault(
    12,
    "the training loop goes on after a timeout",
    expect=f"timed out, then {ALL}",
)
def next_after_a_timeout(trial: Trial) -> str:
    go_on = torch.multiprocessing.get_context("fork").Event()
    dataset = Stamped(At(go_on.wait, 0))
    iterator = iter(trial.loader(dataset, timeout=0.5))
    try:
        next(iterator)
    except RuntimeError as error:
        if "timed out" not in str(error):
            return str(error)
    go_on.set()
    return f"timed out, then {trial.read(iterator)}"


@fault(18, "worker_init_fn hangs, timeout=1", expect="nothing, then LoadingTimeout: .*worker 0")
def init_hangs(trial: Trial) -> str:
    return trial.read(trial.loader(worker_init_fn=lambda worker_id: acts.sleep(), timeout=1))


@fault(
    (14, 74),
    "the program ends by an exception whose traceback holds an iterator with a sleeping worker",
    expect="EndsTheProgram.* - exit code 1",
    tracebacks=1,
    is_about_the_end=True,
)
def exit_by_exception(trial: Trial) -> str:
    iterator = iter(trial.loader(Stamped(At(acts.sleep))))
    next(iterator)
    raise EndsTheProgram
