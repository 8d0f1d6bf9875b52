"""What can't go from a worker to the training loop, or only with care."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.faults.case import Case, add, fault
from tests.faults.cases import machine
from tests.faults.cases.acts import AT, crash
from tests.faults.trial import Made, Trial

HEAVY = {"deadline_s": 120, "needs": machine.no_time}
GOOD = "samples 0 to 20, then "


def keep(samples: list[Any]) -> Any:
    """A collate function that gives the only sample as it is."""
    return samples[0]


def _nested(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


class ReduceBy:
    """Does something when it is pickled."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __reduce__(self) -> Any:
        return self.act()


class OpenBy:
    """Does something when it is unpickled."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __reduce__(self) -> Any:
        return self.act, ()


def fails() -> Any:
    """Raises what pickle does not."""
    raise ZeroDivisionError("mine")


def exits() -> Any:
    """Asks the interpreter to exit."""
    sys.exit(3)


def interrupts() -> Any:
    """As Ctrl-C."""
    raise KeyboardInterrupt("mine")


class _Local:
    """Stands for a class that can't be found under its name."""


_Local.__qualname__ = "not_here"

SENT: list[tuple[int, str, str, Callable[[], Any], str]] = [
    (43, "lambda", "a batch holds a lambda", lambda: lambda: 1, "PicklingError|AttributeError"),
    (43, "lock", "a batch holds a lock", threading.Lock, "TypeError: cannot pickle"),
    (43, "local_class", "a batch holds a local class", _Local, "PicklingError|AttributeError"),
    (43, "generator", "a batch holds a generator", lambda: (k for k in "a"), "TypeError: cannot"),
    (44, "raises_in_reduce", "an object raises when pickled", lambda: ReduceBy(fails), "ZeroDiv"),
    (
        44,
        "exits_in_reduce",
        "an object exits when pickled",
        lambda: ReduceBy(exits),
        "WorkerError: SystemExit",
    ),
    (
        44,
        "crashes_in_reduce",
        "an object crashes when pickled",
        lambda: ReduceBy(crash),
        "WorkerDied: .*SIGSEGV",
    ),
    (
        45,
        "raises_at_unpickling",
        "an object raises when unpickled in the training process",
        lambda: OpenBy(fails),
        "ZeroDivisionError: mine",
    ),
    (
        45,
        "exits_at_unpickling",
        "an object exits when unpickled in the training process",
        lambda: OpenBy(exits),
        "WorkerError: SystemExit",
    ),
    (46, "deep_nesting", "a batch of 100,000 nested lists", lambda: _nested(100_000), "Recursion"),
    (
        51,
        "gradient_graph",
        "a tensor with a gradient graph",
        lambda: torch.ones(2, requires_grad=True) * 2,
        r"RuntimeError: .*detach\(\)",
    ),
    (62, "memoryview", "a batch holds a memoryview", lambda: memoryview(b"abc"), "TypeError: cann"),
]


def _is_sent(number: int, name: str, text: str, make: Callable[[], Any], expect: str) -> None:
    def run(trial: Trial) -> str:
        dataset = Made(lambda index: (index, make() if index == AT else torch.ones(3)))
        loader = trial.loader(dataset, batch_size=1, collate_fn=keep)
        iterator = iter(loader)
        said = trial.read(iterator, ids_of=lambda batch: [batch[0]])
        rest = [] if "WorkerDied" in said else [batch[0] for batch in iterator]
        return f"{said}\nand then {len(rest)} more"

    then = "" if "WorkerDied" in expect else r".*and then 42 more"
    add(Case((number,), f"sends_{name}", text, run, f"{GOOD}({expect}){then}"))


for _row in SENT:
    _is_sent(*_row)


@fault(47, "a batch of a million dicts", expect="^equal$", deadline_s=30)
def many_objects(trial: Trial) -> str:
    def make(index: int) -> Any:
        return [{"id": k, "name": "cat"} for k in range(1_000_000)]

    (batch,) = trial.loader(Made(make, 1), batch_size=None)
    return "equal" if batch == make(0) else "differs"


@fault(47, "a result of 2 GiB and a byte of Python bytes", expect="^equal$", **HEAVY)
def huge_result(trial: Trial) -> str:
    size = (1 << 31) + 1
    dataset = Made(lambda index: bytes(size), 1)
    (batch,) = trial.loader(dataset, batch_size=None, num_workers=1)
    return "equal" if len(batch) == size and not batch.strip(b"\0") else "differs"


@fault(66, "a batch of 128 MiB where memory_limit is 1 MiB", expect="^equal$", deadline_s=40)
def batch_larger_than_a_slot(trial: Trial) -> str:
    dataset = Made(lambda index: torch.full((1 << 25,), float(index)), 2)
    options = {} if trial.is_torch else {"memory_limit": 1 << 20}
    loader = trial.loader(dataset, batch_size=None, num_workers=1, **options)
    same = [bool((batch == float(k)).all()) for k, batch in enumerate(loader)]
    return "equal" if same == [True, True] else "differs"


def _arrives(
    number: int, name: str, text: str, make: Callable[[], Any], tell: Callable[[Any], Any]
) -> None:
    def run(trial: Trial) -> str:
        (batch,) = trial.loader(Made(lambda k: make(), 1), batch_size=None, num_workers=1)
        arrived, expected = tell(batch), tell(make())
        return "equal" if arrived == expected else f"arrives as {arrived}, was {expected}"

    add(Case((number,), f"sends_{name}", text, run, "^equal$"))


def _quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.arange(4.0), 0.5, 1, torch.quint8)


_arrives(54, "quantized", "a quantized tensor", _quantized, lambda t: t.dequantize().tolist())
_arrives(
    56,
    "conjugate",
    "a conjugate view",
    lambda: torch.tensor([1 + 2j]).conj(),
    lambda t: t.tolist(),
)
_arrives(
    56,
    "negative",
    "a negative view",
    lambda: torch.tensor([1 + 2j]).conj().imag,
    lambda t: t.tolist(),
)
_arrives(
    60,
    "masked_array",
    "a masked array",
    lambda: np.ma.masked_array([1, 2, 3], [0, 1, 0]),  # type: ignore[arg-type]
    lambda a: getattr(a, "mask", np.zeros(1)).tolist(),
)
_arrives(
    52,
    "parameter",
    "a parameter",
    lambda: torch.nn.Parameter(torch.ones(2)),
    lambda t: (type(t).__name__, t.tolist(), t.requires_grad),
)


@fault(60, "masked arrays that the default collate function stacks", expect="masks are lost|Error")
def masked_arrays_collated(trial: Trial) -> str:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = Made(lambda k: np.ma.masked_array([k, 2, 3], [0, 1, 0]), 4)  # type: ignore[arg-type]
        try:
            batches = list(trial.loader(dataset, num_workers=0))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return f"{batches[0].tolist()}; {[str(w.message) for w in caught]}"


@fault(
    64,
    "two views of one tensor in a batch; one is written to",
    expect="the other one (changed|stays)",
)
def views_of_one_tensor(trial: Trial) -> str:
    def make(index: int) -> Any:
        base = torch.zeros(8)
        return base[:6], base[2:]

    (batch,) = trial.loader(Made(make, 1), batch_size=None, num_workers=1)
    batch[0].fill_(1)
    return f"the other one {'changed' if batch[1].any() else 'stays'}"


@fault(65, "held batches are written to while loading goes on", expect="all 64 samples, in order")
def batches_are_written_to(trial: Trial) -> str:
    def ids_of(batch: Any) -> list[int]:
        ids = [int(row[0]) for row in batch]
        assert all(bool((held == -1).all()) for held in trial.kept)
        batch.fill_(-1)
        trial.kept.append(batch)
        return ids

    return trial.read(trial.loader(), ids_of=ids_of)
