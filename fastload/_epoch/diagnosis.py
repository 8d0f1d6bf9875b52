"""Deaths, timeouts and stalls in words: what happened to which batch, and what to do.

Runs in: consumer.
Takes: the pool, and the number of a run in it.
Gives: exceptions to raise, and warnings that point at the program's own line.
"""

from __future__ import annotations

import time

from fastload._epoch.worker_pool import WorkerPool
from fastload._pool.deaths import Death
from fastload._system.warn import warn_program
from fastload.errors import LoadingInterrupted, LoadingTimeout, WorkerDied, show

STALL_WARNING_S = 30
"""Without a timeout, a worker that gives nothing for so long is shown once."""


def died(pool: WorkerPool, run: int, death: Death) -> WorkerDied:
    """The error for a worker that ended although batches of a run were still to come from it."""
    lost = pool.lost[death.worker_id].get(run, [])
    batches = "; ".join(
        f"batch {sequence}, dataset indices {show(task.indices)}" for sequence, task in lost
    )
    stack = f"\nIts stack when it crashed:\n{death.stack}" if death.stack else ""
    return WorkerDied(
        f"DataLoader worker (pid {death.pid}) {death.how}. It was worker {death.worker_id} and "
        f"had to load: {batches}. {death.cause} "
        f"max_worker_restarts=N starts such a worker again.{stack}",
        death.worker_id,
        death.exitcode,
    )


def warn_of_restart(death: Death) -> None:
    """Tell the program that a worker died and another one has taken its place."""
    warn_program(
        f"DataLoader worker {death.worker_id} (pid {death.pid}) {death.how} and was started "
        f"again; the batches it had not finished are loaded again. {death.cause}"
    )


def timed_out(pool: WorkerPool, run: int, sequence: int, timeout_s: float) -> LoadingTimeout:
    """The error for a batch that did not come within ``timeout`` seconds."""
    return LoadingTimeout(
        f"DataLoader timed out after {timeout_s} seconds{_whereabouts(pool, run, sequence)}"
    )


def warn_of_stall(pool: WorkerPool, run: int, sequence: int) -> None:
    """Tell the program where a worker is that has given nothing for long."""
    warn_program(
        f"no batch has arrived for {STALL_WARNING_S} seconds{_whereabouts(pool, run, sequence)}\n"
        f"This warning comes once; timeout= makes it an error."
    )


def interrupted(what: str) -> LoadingInterrupted:
    """The error for an epoch that can't go on because of an exception from outside.

    Args:
        what: What was hit, as the end of a sentence.
    """
    return LoadingInterrupted(
        f"an exception from outside, such as Ctrl-C or one raised by a signal handler, interrupted "
        f"this iterator {what}; call iter(loader) to begin a new epoch"
    )


HALF_DONE = "while a batch changed hands"

IN_SAMPLER = (
    "in the code of the sampler, which can't be asked for the rest of the epoch; what it had given "
    "before was delivered"
)

IN_STREAM = "in the code of the dataset, which can't be asked for the rest of the epoch"


def _whereabouts(pool: WorkerPool, run: int, sequence: int) -> str:
    """Who was to load a batch, since when, and where that worker is now."""
    task = pool.flying(run).get(sequence)
    if task is None:
        return ""
    waited_s = (time.monotonic_ns() - task.sent_ns) / 1e9
    stack = pool.workers[task.worker_id].stack()
    shown = f". Its stack:\n{stack}" if stack else ". It does not answer: is it stopped?"
    return (
        f": worker {task.worker_id} was given batch {sequence} (dataset indices "
        f"{show(task.indices)}) {waited_s:.1f} s ago and has not finished it{shown}"
    )
