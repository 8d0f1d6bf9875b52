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
from multiprocessing import forkserver
from typing import Any

from fastload._memory.arena import Arena, anonymous_file
from fastload._memory.forks import forking_workers
from fastload._pool.handle import WorkerHandle
from fastload._system import descriptors, signals
from fastload._system.descriptors import Descriptor
from fastload._wire.shipment import SharedPickle
from fastload._wire.stacks import StackFile
from fastload._worker.job import WorkerEnds, WorkerSpec
from fastload._worker.loop import work
from fastload.errors import annotate

Closers = list[Callable[[], None]]

PRELOADED = ["__main__", "torch", "numpy", "fastload._worker.loop"]


class Starter:
    """Starts the workers of one job; any of them again if it died."""

    def __init__(
        self, job: WorkerSpec, arena: Arena | None, context: Any, watcher: object, closers: Closers
    ) -> None:
        """What must be closed when no more workers will be started is added to ``closers``."""
        self._content: WorkerSpec | SharedPickle = job
        self._arena = arena
        self._context = context
        self._watcher = watcher
        if arena is not None:
            closers.append(arena.close_descriptor)
        if not forks(context):
            # What can't be pickled once (locks, queues, shared tensors) goes the way torch's does,
            # pickled anew for each worker; so does what can't be pickled at all, and raises there.
            with contextlib.suppress(Exception):
                self._content = SharedPickle.pack(job)
        if isinstance(self._content, SharedPickle):
            closers.append(self._content.close)

    def start(self, worker_id: int) -> WorkerHandle:
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


def signals_deferred(context: Any) -> contextlib.AbstractContextManager[None]:
    """While workers are forked and until somebody has them: no handler of a signal runs."""
    return signals.defer() if forks(context) else contextlib.nullcontext()


def forks(context: Any) -> bool:
    """Whether workers are forked, and so inherit what they need."""
    return bool(context.get_start_method() == "fork")


def _start(
    worker_id: int,
    content: WorkerSpec | SharedPickle,
    arena: Arena | None,
    context: Any,
    watcher: object,
) -> WorkerHandle:
    with descriptors.fork_lock, contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
        orders_read, orders_write = _pipe(theirs, undo, worker_reads=True)
        reports_read, reports_write = _pipe(theirs, undo, worker_reads=False)
        lifeline_read, lifeline_write = _pipe(theirs, undo, worker_reads=True)
        stacks = _stack_file(undo)
        post = WorkerEnds(
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
        return WorkerHandle(process, orders_write, reports_read, lifeline_write, stack_file)


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
