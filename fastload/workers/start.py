"""Start worker processes, by any of multiprocessing's methods.

Runs in: consumer.
Takes: a job, an arena and a multiprocessing context.
Gives: a handle for each worker: the process and the consumer's ends of its pipes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

from fastload import descriptors
from fastload.descriptors import Descriptor
from fastload.memory.arena import Arena
from fastload.memory.layout import Layout
from fastload.memory.slots import forking_workers
from fastload.workers.channel import PatientSender, Receiver
from fastload.workers.loop import Job, Post, work

PRELOADED = ["__main__", "torch", "numpy", "fastload.workers.loop"]


class Worker:
    """One worker as the consumer sees it."""

    def __init__(self, process: Any, orders: int, reports: int, lifeline: int) -> None:
        self.process = process
        self.orders = PatientSender(orders)
        self.reports = Receiver(reports)
        self.lifeline = lifeline
        self.last: tuple[Layout, bytes] | None = None

    def hang_up(self, farewell: bytes) -> None:
        """Ask the worker to leave, also if it waits in the middle of a message to us."""
        self.orders.send(farewell)
        descriptors.close(self.orders.descriptor)
        descriptors.close(self.reports.descriptor)

    def release(self) -> None:
        """Close the lifeline, which kills a process that still runs."""
        descriptors.close(self.lifeline)


def start_worker(
    worker_id: int, job: Job, arena: Arena | None, context: Any, watcher: object
) -> Worker:
    """Start one worker.

    Raises:
        OSError: The system refuses another process or pipe.
        Exception: Under spawn or forkserver, the job could not be pickled.
    """
    with descriptors.fork_lock, contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
        orders_read, orders_write = _pipe(theirs, undo, worker_reads=True)
        reports_read, reports_write = _pipe(theirs, undo, worker_reads=False)
        lifeline_read, lifeline_write = _pipe(theirs, undo, worker_reads=True)
        post = Post(
            worker_id,
            arena,
            Descriptor(orders_read),
            Descriptor(reports_write),
            Descriptor(lifeline_read),
        )
        process = context.Process(
            target=work, args=(post, job), name=f"fastload-worker-{worker_id}", daemon=False
        )
        with forking_workers(watcher), _allowed_to_have_children():
            process.start()
        undo.pop_all()
        return Worker(process, orders_write, reports_read, lifeline_write)


def context_of(loader_context: Any) -> Any:
    """The multiprocessing context to start workers in, prepared so that they start fast."""
    context = multiprocessing.get_context() if loader_context is None else loader_context
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    return context


def _pipe(
    theirs: contextlib.ExitStack, undo: contextlib.ExitStack, *, worker_reads: bool
) -> tuple[int, int]:
    """A pipe of which the worker's end is closed here once it has started."""
    read, write = os.pipe()
    theirs.callback(os.close, read if worker_reads else write)
    ours = descriptors.own(write if worker_reads else read)
    undo.callback(descriptors.close, ours)
    return read, write


@contextlib.contextmanager
def _allowed_to_have_children() -> Iterator[None]:
    """Let a daemonic process start workers.

    multiprocessing forbids it because the children of a daemon would be orphaned when it is
    terminated. Our workers end with their parent whatever happens, so the reason is gone.
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    was_daemon = config.get("daemon")
    if not was_daemon:
        yield
        return
    config["daemon"] = False
    try:
        yield
    finally:
        config["daemon"] = was_daemon
