"""One row of the table: a fault, how it is made, and what must come of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE = "FASTLOAD_PATIENCE"
"""A variable of the environment: how many times as long as the page says everything may take."""


def patient(seconds: float) -> float:
    """A limit of time, longer where the environment says so."""
    return seconds * float(os.environ.get(PATIENCE, "1"))


ALL = "all 64 samples, in order"
"""What an epoch reads as that lost, doubled and changed nothing."""


@dataclass(frozen=True)
class Case:
    """A fault and the outcome that fastload promises.

    Attributes:
        numbers: Which faults of the matrix these are.
        name: Of the test; the table shows ``fault``.
        fault: What happens, in a line.
        run: Makes the fault in a fresh process. Gives the outcome as a text, or raises it.
        expect: Regular expression that is found in fastload's outcome.
        deadline_s: After which the process is taken to hang, counted from its first line on.
        is_about_the_end: The process is meant to end with live workers, or is killed: what is
            left is counted only after it ended.
        is_for_torch: Torch's loader can run it too.
        wrapper: Command that the process is run through.
        needs: Gives a reason when the machine can't make this fault.
        broken: Why fastload does not keep this promise yet.
        tracebacks: How many may be printed: of an exception that ends the program, one.
        is_a_race: Who sees the fault first differs from run to run, and so does what is said: the
            page shows one of the ways, and ``expect`` all of them.
        is_rare: It starts interpreters, and a cheaper case ends in the same code: tested by
            ``--exhaustive`` only.
        leaves: Regular expression of what may stay, because it is not ours to take away.
    """

    numbers: tuple[int, ...]
    name: str
    fault: str
    run: Callable[[Any], str]
    expect: str
    deadline_s: float = 10
    is_about_the_end: bool = False
    is_for_torch: bool = True
    wrapper: Sequence[str] = ()
    needs: Callable[[], str | None] = lambda: None
    broken: str | None = None
    leaves: str | None = None
    tracebacks: int = 0
    is_a_race: bool = False
    is_rare: bool = False


CASES: dict[str, Case] = {}


def fault(
    numbers: int | tuple[int, ...], description: str, *, expect: str, **options: Any
) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Enter a function into the table, under its name."""

    def enter(run: Callable[..., str]) -> Callable[..., str]:
        given = (numbers,) if isinstance(numbers, int) else numbers
        add(Case(given, run.__name__, description, run, expect, **options))
        return run

    return enter


def add(case: Case) -> None:
    """Enter a case; names are unique."""
    assert case.name not in CASES, f"two cases are called {case.name}"
    CASES[case.name] = case
