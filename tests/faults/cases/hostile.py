"""The matrix of hostile objects that loky's tests use: 8 objects at 4 moments.

Four do something when they are pickled, four when they are unpickled: raise, call ``sys.exit``,
end the process through the C library, crash. The moments: within a dataset that goes to a spawned
worker, as an index from a sampler, within a batch, within an exception.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from tests.faults.case import Case, add
from tests.faults.cases.acts import Holds
from tests.faults.trial import Made, Trial, describe

ACTS: dict[str, Callable[[], Any]] = {}


def _act(function: Callable[[], Any]) -> Callable[[], Any]:
    ACTS[function.__name__] = function
    return function


@_act
def raises() -> Any:
    raise ZeroDivisionError("mine")


@_act
def exits() -> Any:
    sys.exit(3)


@_act
def exits_in_c() -> Any:
    ctypes.CDLL(None)._exit(3)


@_act
def crashes() -> Any:
    ctypes.string_at(0)


class AtPickle:
    """Acts when it is pickled."""

    def __init__(self, act: str) -> None:
        self.act = act

    def __reduce__(self) -> Any:
        return ACTS[self.act]()


class AtUnpickle(AtPickle):
    """Acts when it is unpickled."""

    def __reduce__(self) -> Any:
        return ACTS[self.act], ()


class Carrier(Exception):
    """An exception that holds something."""

    def __init__(self, what: Any) -> None:
        super().__init__("carried")
        self.what = what


def _raise(error: Exception) -> Any:
    raise error


MOMENTS: dict[str, Callable[[Trial, Any], Any]] = {
    "dataset": lambda trial, what: trial.loader(
        Holds(what), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    ),
    "index": lambda trial, what: trial.loader(
        Made(lambda index: 1), batch_size=None, num_workers=1, sampler=[what]
    ),
    "batch": lambda trial, what: trial.loader(
        Made(lambda index: what), batch_size=None, num_workers=1, collate_fn=lambda item: item
    ),
    "exception": lambda trial, what: trial.loader(
        Made(lambda index: _raise(Carrier(what))), batch_size=None, num_workers=1
    ),
}
IN_CONSUMER = {
    ("dataset", "AtPickle"),
    ("index", "AtPickle"),
    ("batch", "AtUnpickle"),
}
"""Where the training process itself runs the object; what ends a process there, ends it."""


def _expected(moment: str, kind: str, act: str) -> str:
    if moment == "index" and kind == "AtPickle" and act == "exits":
        return "SystemExit|exit code 3"
    if (moment, kind) in IN_CONSUMER:
        return {
            "raises": "ZeroDivisionError: mine",
            "exits": "SystemExit",
            "exits_in_c": "^exit code 3$",
            "crashes": "^ended by SIGSEGV$",
        }[act]
    if moment == "exception":
        # The exception is tried out in the worker first.
        survives = {"raises": "Carrier: carried", "exits": "Carrier: carried"}
        return survives.get(act, r"WorkerDied: .*(code 3|SIGSEGV)")
    return {
        "raises": "ZeroDivisionError: mine",
        "exits": "WorkerError: SystemExit",
        "exits_in_c": "WorkerDied: .*code 3",
        "crashes": "WorkerDied: .*SIGSEGV",
    }[act]


def _enter(moment: str, kind: type[AtPickle], act: str) -> None:
    def run(trial: Trial) -> str:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            batches = list(MOMENTS[moment](trial, kind(act)))
        except BaseException as error:
            return describe(error)
        return f"{len(batches)} batches"

    when = "pickled" if kind is AtPickle else "unpickled"
    text = f"hostile object in a{'n' if moment[0] in 'ie' else ''} {moment}: {act} when {when}"
    add(
        Case(
            (44,) if kind is AtPickle else (45,),
            f"hostile_{moment}_{act}_when_{when}".replace(" ", "_"),
            text.replace("_", " "),
            run,
            _expected(moment, kind.__name__, act),
            deadline_s=20,
            is_rare=(moment, kind) == ("dataset", AtUnpickle) and act != "raises",
        )
    )


for _moment in MOMENTS:
    for _kind in (AtPickle, AtUnpickle):
        for _name in ACTS:
            _enter(_moment, _kind, _name)
