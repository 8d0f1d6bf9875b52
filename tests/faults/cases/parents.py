"""Training processes that end, with workers that would not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.case import ALL, Case, add
from tests.faults.cases import acts
from tests.faults.trial import Stamped, Trial


class Tells:
    """A worker_init_fn that leaves a file: this worker runs."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, worker_id: int) -> None:
        (Path(self.folder) / str(worker_id)).touch()


class Busy:
    """What a worker does with each sample."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __call__(self, index: int) -> None:
        self.act()


def nothing() -> None:
    """The worker is idle soon."""


STATES: dict[str, Callable[[], Any]] = {
    "idle": nothing,
    "asleep": acts.sleep,
    "spinning": acts.spin,
    "in_c_with_the_gil": acts.hold_the_gil,
    "stopped": acts.stop,
}


def _start(trial: Trial, state: str, method: str) -> Any:
    """An iterator whose two workers run."""
    with tempfile.TemporaryDirectory() as folder:
        iterator = iter(
            trial.loader(
                Stamped(Busy(STATES[state])),
                worker_init_fn=Tells(folder),
                multiprocessing_context=method,
            )
        )
        while len(list(Path(folder).iterdir())) < 2:
            time.sleep(0.01)
    time.sleep(0.05)  # into its first sample
    return iterator


def _is_killed(state: str, method: str) -> None:
    def run(trial: Trial) -> str:
        iterator = _start(trial, state, method)
        os.kill(os.getpid(), signal.SIGKILL)
        return repr(iterator)

    numbers = (67, 69) if state == "idle" else (68, 69)
    words = "in C with the GIL held" if "gil" in state else state
    text = f"the training process is killed, workers {words} ({method})"
    name = f"parent_killed_{state}_{method}"
    deadline_s = 10 if method == "fork" else 40
    options: Any = {
        "is_about_the_end": True,
        "deadline_s": deadline_s,
        "is_rare": method == "spawn",
    }
    add(Case(numbers, name, text, run, "^ended by SIGKILL$", **options))


for _state in STATES:
    _is_killed(_state, "fork")
for _method in ("forkserver", "spawn"):
    _is_killed("idle", _method)
    _is_killed("spinning", _method)


def _ends(number: int, name: str, text: str, end: Callable[[], Any], expect: str) -> None:
    def run(trial: Trial) -> str:
        trial.kept.append(_start(trial, "asleep", "fork"))
        end()
        return "went on"

    add(Case((number,), name, text, run, expect, is_about_the_end=True))


def _terminated() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


_ends(70, "parent_terminated", "the training process gets SIGTERM", _terminated, "SIGTERM")
_ends(70, "parent_exits_hard", "the training process calls os._exit", lambda: os._exit(5), "code 5")
_ends(
    70,
    "parent_aborts",
    "the training process aborts",
    os.abort,
    "SIGABRT",
)


def _executes_and_counts(trial: Trial) -> str:
    trial.kept.append(_start(trial, "asleep", "fork"))
    code = (
        "import json, os, psutil, time; time.sleep(1); "
        "n = len([c for c in psutil.Process().children() if c.status() != 'zombie']); "
        "print(json.dumps({'outcome': f'{n} workers after a second', 'left': []}))"
    )
    os.execv(sys.executable, [sys.executable, "-c", code])
    raise AssertionError


add(
    Case(
        (90,),
        "parent_is_replaced",
        "the training process becomes another program (execv)",
        _executes_and_counts,
        "^0 workers",
        is_about_the_end=True,
    )
)


def _interrupted(number: int, name: str, text: str, send: Callable[[], Any]) -> None:
    def run(trial: Trial) -> str:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loader = trial.loader(Stamped(lambda index: time.sleep(0.02)))

        def ids_of(batch: Any) -> list[int]:
            if trial.ids == []:
                send()
            return [int(row[0]) for row in batch]

        return trial.read(loader, ids_of=ids_of).replace("samples 0 to 3", "nothing")

    add(Case((number,), name, text, run, "^nothing, then KeyboardInterrupt: $"))


_interrupted(71, "ctrl_c_to_the_group", "Ctrl-C", lambda: os.killpg(0, signal.SIGINT))
_interrupted(
    71,
    "ctrl_c_to_the_parent",
    "SIGINT to the training process alone",
    lambda: os.kill(os.getpid(), signal.SIGINT),
)


def _interrupted_and_ends(trial: Trial) -> str:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for _ in trial.loader(Stamped(lambda index: time.sleep(0.02))):
        os.killpg(0, signal.SIGINT)
    return "went on"


add(
    Case(
        (71,),
        "ctrl_c_ends_the_loop",
        "Ctrl-C leaves the loop: what is printed beside its traceback",
        _interrupted_and_ends,
        "^KeyboardInterrupt: $",
        is_about_the_end=True,
    )
)


def _interrupted_in_shutdown(trial: Trial) -> str:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    iterator = iter(trial.loader(Stamped(acts.At(acts.ignore_sigterm_and_sleep, 0))))
    time.sleep(0.2)
    main = os.getpid()
    somebody = os.fork()
    if somebody == 0:  # presses Ctrl-C twice while the loader closes
        for _ in range(2):
            time.sleep(0.2)
            os.kill(main, signal.SIGINT)
        os._exit(0)
    said = []
    for _ in range(3):
        try:
            iterator._shutdown_workers()
            time.sleep(0.7)
            break
        except KeyboardInterrupt:
            said.append("KeyboardInterrupt")
    os.waitpid(somebody, 0)
    multiprocessing.active_children()  # it reaps what was killed when close was interrupted
    return f"closed, with {', '.join(said)}"


add(
    Case(
        (72,),
        "ctrl_c_during_shutdown",
        "Ctrl-C twice while the loader ends workers that ignore SIGTERM",
        _interrupted_in_shutdown,
        "^closed, with KeyboardInterrupt",
        deadline_s=15,
    )
)


def _at_a_fork(name: str, text: str, **hook: Callable[[], Any]) -> None:
    def run(trial: Trial) -> str:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = lambda _: None  # what torch prints is not the question here
        os.register_at_fork(**hook)
        return trial.read(trial.loader())

    expect = "^nothing, then KeyboardInterrupt: $" if "after_in_parent" in hook else f"^{ALL}$"
    add(Case((71,), name, text, run, expect))


def _press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


_at_a_fork(
    "ctrl_c_at_a_fork",
    "Ctrl-C just when a worker is forked, while Python ignores exceptions",
    after_in_parent=_press_ctrl_c,
)
_at_a_fork(
    "ctrl_c_in_a_new_worker",
    "Ctrl-C reaches a forked worker that is not ready yet",
    after_in_child=_press_ctrl_c,
)
