"""Start worker processes, by any of multiprocessing's methods.

Runs in: consumer.
Takes: a job, an arena and a multiprocessing context.
Gives: a handle for each worker: the process and the consumer's ends of its pipes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing import connection, forkserver
from typing import Any

from fastload import descriptors
from fastload.descriptors import Descriptor
from fastload.errors import annotate
from fastload.memory.arena import Arena, anonymous_file
from fastload.memory.forks import forking_workers
from fastload.memory.view import Form
from fastload.workers import signals
from fastload.workers.channel import PatientSender, Receiver
from fastload.workers.loop import Job, Post, work
from fastload.workers.parcel import Parcel
from fastload.workers.stacks import StackFile

Closers = list[Callable[[], None]]

PRELOADED = ["__main__", "torch", "numpy", "fastload.workers.loop"]


EXIT_CODE_WAIT_S = 0.3


class Worker:
    """One worker as the consumer sees it."""

    def __init__(
        self, process: Any, orders: int, reports: int, lifeline: int, stacks: StackFile | None
    ) -> None:
        self.process = process
        self.stacks = stacks
        self.orders = PatientSender(orders)
        self.reports = Receiver(reports)
        self.ended = _ended_descriptor(process)
        self.form: Form | None = None
        self._lifeline = lifeline

    @property
    def exitcode(self) -> int | None:
        """As of a process that has ended; this also reaps it. None if somebody else has."""
        code: int | None = self.process.exitcode
        if code is None:  # under forkserver it comes through the server, a little later
            connection.wait([self.process.sentinel], EXIT_CODE_WAIT_S)
            code = self.process.exitcode
        self.process.join(0)  # so that multiprocessing forgets it
        if code is None and self.ended != self.process.sentinel:
            # Somebody else reaped it (SIGCHLD ignored, waitpid(-1)): join never hears of that.
            multiprocessing.process._children.discard(self.process)  # type: ignore[attr-defined]
        return code

    def stack(self) -> str:
        """Where the worker is now; empty if it can't be told. May take half a second."""
        return "" if self.stacks is None else self.stacks.ask(self.process.pid)

    def hang_up(self, farewell: bytes) -> None:
        """Ask the worker to leave, also if it waits in the middle of a message to us."""
        self.orders.send(farewell)
        self.orders.close()
        self.reports.close()

    def cut_off(self) -> None:
        """Close the lifeline, which kills a process that still runs."""
        lifeline, self._lifeline = self._lifeline, descriptors.CLOSED
        descriptors.close(lifeline)

    def release(self) -> None:
        """Close what is left of it here."""
        self.cut_off()
        self.orders.close()  # again, if asking it to leave was interrupted
        self.reports.close()
        if self.stacks is not None:
            self.stacks.close()
        ended, self.ended = self.ended, descriptors.CLOSED
        if ended != self.process.sentinel:
            descriptors.close(ended)


class Starter:
    """Starts the workers of one job; any of them again if it died."""

    def __init__(
        self, job: Job, arena: Arena | None, context: Any, watcher: object, closers: Closers
    ) -> None:
        """What must be closed when no more workers will be started is added to ``closers``."""
        self._content: Job | Parcel = job
        self._arena = arena
        self._context = context
        self._watcher = watcher
        if arena is not None:
            closers.append(arena.close_descriptor)
        if not forks(context):
            # What can't be pickled once (locks, queues, shared tensors) goes the way torch's does,
            # pickled anew for each worker; so does what can't be pickled at all, and raises there.
            with contextlib.suppress(Exception):
                self._content = Parcel.pack(job)
        if isinstance(self._content, Parcel):
            closers.append(self._content.close)

    def start(self, worker_id: int) -> Worker:
        """Start one worker.

        Raises:
            OSError: The system refuses another process or pipe.
            Exception: Under spawn or forkserver, the job could not be pickled.
        """
        try:
            return _start(worker_id, self._content, self._arena, self._context, self._watcher)
        except Exception as error:
            if not forks(self._context):
                method = self._context.get_start_method()
                annotate(
                    error,
                    f"while a worker was started by {method!r}: the dataset, collate_fn and "
                    f"worker_init_fn must be picklable for that",
                )
            raise


def close_all(closers: Closers) -> None:
    """Call each, once."""
    while closers:
        closers.pop()()


def context_of(loader_context: Any) -> Any:
    """The multiprocessing context to start workers in, prepared so that they start fast."""
    context = multiprocessing.get_context() if loader_context is None else loader_context
    if context.get_start_method() == "forkserver":
        before = getattr(forkserver._forkserver, "_preload_modules", [])
        context.set_forkserver_preload(list(dict.fromkeys([*before, *PRELOADED])))
    return context


def undisturbed(context: Any) -> contextlib.AbstractContextManager[None]:
    """While workers are forked and until somebody has them: no handler of a signal runs."""
    return signals.put_off() if forks(context) else contextlib.nullcontext()


def forks(context: Any) -> bool:
    """Whether workers are forked, and so inherit what they need."""
    return bool(context.get_start_method() == "fork")


def _start(
    worker_id: int, content: Job | Parcel, arena: Arena | None, context: Any, watcher: object
) -> Worker:
    with descriptors.fork_lock, contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
        orders_read, orders_write = _pipe(theirs, undo, worker_reads=True)
        reports_read, reports_write = _pipe(theirs, undo, worker_reads=False)
        lifeline_read, lifeline_write = _pipe(theirs, undo, worker_reads=True)
        stacks = _stack_file(undo)
        post = Post(
            worker_id,
            arena,
            Descriptor(orders_read),
            Descriptor(reports_write),
            Descriptor(lifeline_read),
            None if stacks is None else Descriptor(stacks),
        )
        process = context.Process(
            target=work, args=(post, content), name=f"fastload-worker-{worker_id}", daemon=False
        )
        with forking_workers(watcher), _allowed_to_have_children():
            process.start()
        undo.pop_all()
        stack_file = None if stacks is None else StackFile(stacks)
        return Worker(process, orders_write, reports_read, lifeline_write, stack_file)


def _pipe(
    theirs: contextlib.ExitStack, undo: contextlib.ExitStack, *, worker_reads: bool
) -> tuple[int, int]:
    """A pipe of which the worker's end is closed here once it has started."""
    read, write = os.pipe()
    theirs.callback(os.close, read if worker_reads else write)
    ours = descriptors.own(write if worker_reads else read)
    undo.callback(descriptors.close, ours)
    return read, write


def _stack_file(undo: contextlib.ExitStack) -> int | None:
    """An anonymous file, or None where there is no room for one."""
    try:
        descriptor = anonymous_file()
    except OSError:
        return None
    undo.callback(os.close, descriptor)
    return descriptor


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
