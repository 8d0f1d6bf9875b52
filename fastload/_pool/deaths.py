"""What ended a worker, for the person who has to find out why.

Runs in: consumer.
Takes: a worker that has ended, and what the kernel had counted when it was started.
Gives: how it ended in words, the likely cause, and its stack if it crashed.
"""

from __future__ import annotations

import signal
from typing import NamedTuple

from fastload._pool.handle import WorkerHandle
from fastload._system.cgroups import Kills, oom_kills, smallest_limit_bytes

CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


NEVER_READY = (
    "It could not begin; what it wrote to standard error says why. Started by spawn or forkserver, "
    "a worker imports the program and what it works with: begin the program under "
    "`if __name__ == '__main__':`, and define the dataset in a module (a .py file), not in a "
    "notebook or at a prompt; or use multiprocessing_context='fork'."
)

LOST_SERVER = (
    "The server process of forkserver, which starts workers and reports their end, was killed or "
    "has ended: its workers end with it. A new epoch starts another one."
)


class Death(NamedTuple):
    """One worker's end. ``how`` is a clause about the worker; ``cause`` whole sentences."""

    worker_id: int
    pid: int
    exitcode: int | None
    how: str
    cause: str
    stack: str


def examine(worker_id: int, worker: WorkerHandle, kills_before: Kills) -> Death:
    """Find out how a worker ended; may wait for its exit code for a moment."""
    code = worker.exitcode
    stack = worker.stacks.written() if worker.stacks is not None else ""
    pid = worker.process.pid
    is_ready = worker.stacks is None or worker.stacks.is_ready
    cause = _cause(code, kills_before) if is_ready or code != 1 else NEVER_READY
    if worker.has_lost_server:
        cause = LOST_SERVER
    return Death(worker_id, pid, code, _how(code), cause, stack)


def _how(code: int | None) -> str:
    if code is None:
        return "ended for an unknown reason"
    if code >= 0:
        return f"exited with code {code}"
    return f"is killed by signal: {_name(-code)}"  # torch's words, which programs may look for


def _cause(code: int | None, kills_before: Kills) -> str:
    if code == -signal.SIGKILL:
        return _cause_of_kill(kills_before)
    if code is not None and -code in CRASHES:
        hint = "native code that the dataset calls has crashed"
        if code == -signal.SIGBUS:
            hint = "a file that is mapped into memory was probably truncated, or its disk failed"
        return f"It crashed: {hint}."
    if code is not None and code >= 0:
        return "Something the dataset calls ends the process: os._exit, or native code."
    return ""


def _cause_of_kill(before: Kills) -> str:
    now = oom_kills()
    if now.in_cgroup > before.in_cgroup:
        limit_bytes = smallest_limit_bytes()
        limit = "" if limit_bytes is None else f": its limit is {limit_bytes >> 20} MiB"
        return (
            f"The kernel's OOM killer ended it for want of memory in this container (cgroup)"
            f"{limit}. Use fewer workers or a smaller prefetch_factor, or smaller samples."
        )
    if now.in_system > before.in_system:
        return (
            "The kernel's OOM killer ended a process of this machine meanwhile, probably this one: "
            "memory ran out. Use fewer workers or a smaller prefetch_factor."
        )
    return (
        "Somebody killed it: a person, a batch system or a supervisor. The kernel's OOM killer has "
        "not counted a process meanwhile."
    )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
