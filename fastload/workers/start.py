"""Start worker processes, by any of multiprocessing's methods.

Runs in: consumer.
Takes: a job, an arena and a multiprocessing context.
Gives: a handle for each worker: the process and the consumer's ends of its pipes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import connection, forkserver
from typing import Any

from fastload import descriptors
from fastload.descriptors import Descriptor
from fastload.errors import annotate
from fastload.memory.arena import Arena
from fastload.memory.layout import Layout
from fastload.memory.slots import forking_workers
from fastload.workers.channel import PatientSender, Receiver
from fastload.workers.loop import Job, Post, work
from fastload.workers.parcel import Parcel

PRELOADED = ["__main__", "torch", "numpy", "fastload.workers.loop"]


EXIT_CODE_WAIT_S = 0.3


class Worker:
    """One worker as the consumer sees it."""

    def __init__(self, process: Any, orders: int, reports: int, lifeline: int) -> None:
        self.process = process
        self.orders = PatientSender(orders)
        self.reports = Receiver(reports)
        self.ended = _ended_descriptor(process)
        self.last: tuple[Layout, bytes] | None = None
        self._lifeline = lifeline

    @property
    def exitcode(self) -> int | None:
        """As of a process that has ended; this also reaps it."""
        code: int | None = self.process.exitcode
        if code is None:  # under forkserver it comes through the server, a little later
            connection.wait([self.process.sentinel], EXIT_CODE_WAIT_S)
            code = self.process.exitcode
        self.process.join(0)  # so that multiprocessing forgets it
        return code

    def how_it_ended(self) -> str:
        """The exit code in words: the signal's name, or the code."""
        code = self.exitcode
        if code is None:
            return "ended for an unknown reason"
        if code >= 0:
            return f"exited with code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    def hang_up(self, farewell: bytes) -> None:
        """Ask the worker to leave, also if it waits in the middle of a message to us."""
        self.orders.send(farewell)
        self.orders.close()
        self.reports.close()

    def release(self) -> None:
        """Close the lifeline, which kills a process that still runs."""
        descriptors.close(self._lifeline)
        if self.ended != self.process.sentinel:
            descriptors.close(self.ended)


def start_workers(job: Job, arena: Arena | None, context: Any, watcher: object) -> Iterator[Worker]:
    """Start the workers of a job, one by one.

    Raises:
        OSError: The system refuses another process or pipe.
        Exception: Under spawn or forkserver, the job could not be pickled.
    """
    content: Job | Parcel = job
    if context.get_start_method() != "fork":
        # What can't be pickled once (locks, queues, shared tensors) goes the way torch's does,
        # pickled anew for each worker; so does what can't be pickled at all, and raises there.
        with contextlib.suppress(Exception):
            content = Parcel.pack(job)
    try:
        for worker_id in range(job.workers):
            yield _start(worker_id, content, arena, context, watcher)
    except Exception as error:
        if context.get_start_method() != "fork":
            annotate(
                error,
                f"while a worker was started by {context.get_start_method()!r}: the dataset, "
                f"collate_fn and worker_init_fn must be picklable for that",
            )
        raise
    finally:
        if isinstance(content, Parcel):
            content.close()


def context_of(loader_context: Any) -> Any:
    """The multiprocessing context to start workers in, prepared so that they start fast."""
    context = multiprocessing.get_context() if loader_context is None else loader_context
    if context.get_start_method() == "forkserver":
        before = getattr(forkserver._forkserver, "_preload_modules", [])
        context.set_forkserver_preload(list(dict.fromkeys([*before, *PRELOADED])))
    return context


def _start(
    worker_id: int, content: Job | Parcel, arena: Arena | None, context: Any, watcher: object
) -> Worker:
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
            target=work, args=(post, content), name=f"fastload-worker-{worker_id}", daemon=False
        )
        with forking_workers(watcher), _allowed_to_have_children():
            process.start()
        undo.pop_all()
        return Worker(process, orders_write, reports_read, lifeline_write)


def _pipe(
    theirs: contextlib.ExitStack, undo: contextlib.ExitStack, *, worker_reads: bool
) -> tuple[int, int]:
    """A pipe of which the worker's end is closed here once it has started."""
    read, write = os.pipe()
    theirs.callback(os.close, read if worker_reads else write)
    ours = descriptors.own(write if worker_reads else read)
    undo.callback(descriptors.close, ours)
    return read, write


def _ended_descriptor(process: Any) -> int:
    """A descriptor that becomes readable when the process ends.

    multiprocessing's sentinel does so only when the process *and its children* have ended.
    """
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return descriptors.own(os.pidfd_open(process.pid))
    sentinel: int = process.sentinel
    return sentinel


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
