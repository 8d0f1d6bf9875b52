"""Deaths, timeouts and stalls in words: what happened to which batch, and what to do.

Runs in: consumer.
Takes: the pool, and the number of a run in it.
Gives: exceptions to raise, and warnings that point at the program's own line.
"""

from __future__ import annotations

import time

from fastload._epoch.worker_pool import WorkerPool
from fastload._memory.granted import ANYBODY
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
    """Say who was to load a batch, since when, into which memory, and where that worker is now."""
    task = pool.flying(run).get(sequence)
    if task is None:
        return ""
    waited_s = (time.monotonic_ns() - task.sent_ns) / 1e9
    batch = f"batch {sequence} (dataset indices {show(task.indices)})"
    if task.worker_id != ANYBODY:
        return (
            f": worker {task.worker_id} was given {batch} {waited_s:.1f} s ago and has not "
            f"finished it{_lack_of_slots(pool, task.worker_id)}{_stack_of(pool, task.worker_id)}"
        )
    assert pool.shared is not None
    holders = pool.shared.holders(run, sequence, len(pool.workers))
    if not holders:
        return f": no worker has begun {batch}, which is to be loaded for {waited_s:.1f} s"
    return "".join(
        f": worker {worker_id} has taken {batch}, or a part of it, which is to be loaded for "
        f"{waited_s:.1f} s, and has not finished it{_stack_of(pool, worker_id)}"
        for worker_id in holders
    )


def _lack_of_slots(pool: WorkerPool, worker_id: int) -> str:
    """Say why a worker has no slot for what it loads; nothing if it has one, or the pool has none.

    It stops no worker, but what comes by pipe instead takes longer, perhaps longer than a timeout.
    """
    now = None if pool.slots is None else pool.slots.statistics()
    if now is None or now.granted[worker_id]:
        return ""
    users = (
        (now.leased, "the program holds {} batches"),
        (now.in_hand, "{} batches wait to be delivered"),
        (now.quarantined, "{} slots are quarantined, because a forked child may read them"),
    )
    why = "; ".join(text.format(count) for count, text in users if count)
    return (
        f". No slot of shared memory is free for it, so it comes by pipe, which takes longer: "
        f"{why or 'the limit on shared memory is reached'} (hold fewer, or raise memory_limit=)"
    )


def _stack_of(pool: WorkerPool, worker_id: int) -> str:
    stack = pool.workers[worker_id].stack()
    return f". Its stack:\n{stack}" if stack else ". It does not answer: is it stopped?"
