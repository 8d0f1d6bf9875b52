"""Run the ways of a benchmark in turn, each in a fresh process of the benchmark's own script."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence

from fastload.tools.bench.child import Child
from fastload.tools.bench.machine import BUSY_LOAD, Machine, describe_machine

LIMIT_S = 60.0


class WrongError(Exception):
    """Ways give different batches, or one could not be measured."""


def measure(
    script: str, check: Sequence[str], ways: Mapping[str, Sequence[str]], rounds: int, of: str = ""
) -> dict[str, list[float]]:
    """What each way prints, a number, in each round, once their batches are checked.

    Args:
        script: The file to be run; it calls ``await_turn`` when all is imported.
        check: Its arguments for the comparison of batches.
        ways: Its arguments for each way.
        rounds: How often each is run.
        of: Said in errors behind the name of a way.

    Raises:
        WrongError: Batches differ, a process failed, or it took too long.
    """
    found: dict[str, list[float]] = {way: [] for way in ways}
    with Child([sys.executable, script, *check]) as child:
        _output(f"the comparison{of}", child)
    for _ in range(rounds):
        with contextlib.ExitStack() as stack:
            children = {
                way: stack.enter_context(Child([sys.executable, script, *arguments]))
                for way, arguments in ways.items()
            }
            for child in children.values():
                child.await_ready(LIMIT_S)
            for way, child in children.items():
                found[way].append(float(_output(f"{way}{of}", child)))
    return found


def _output(who: str, child: Child) -> str:
    finished = child.finish(LIMIT_S)
    if finished.overran:
        raise WrongError(f"{who} took more than {LIMIT_S:g} s and was killed")
    if finished.returncode != 0:
        raise WrongError(f"{finished.stderr}\n{who} ended with exit code {finished.returncode}")
    return finished.stdout


def look_at_machine() -> Machine:
    """Describe the machine; say so if it is busy."""
    machine = describe_machine()
    if machine.load > BUSY_LOAD * machine.cores:
        print(f"this machine is busy (load {machine.load:.1f}): mistrust these figures")
    return machine
