"""Start worker processes, by any of multiprocessing's methods.

Runs in: consumer.
Takes: a specification of the workers, an arena and a multiprocessing context.
Gives: a handle for each worker: the process and the consumer's ends of its pipes.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker
from typing import Any

import psutil

from fastload._memory.arena import Arena
from fastload._memory.forks import forking_workers
from fastload._pool.handle import WorkerHandle
from fastload._pool.shared_ends import SharedEnds
from fastload._system import descriptors, imports, pipes, signals
from fastload._system.descriptors import Descriptor
from fastload._system.interruptions import is_from_outside, own_suppressed
from fastload._wire.shipment import SharedPickle
from fastload._wire.task_queue import TaskQueue, TaskQueueEnd
from fastload._worker.job import WorkerEnds, WorkerSpec
from fastload._worker.loop import work
from fastload.errors import annotate

Closers = list[Callable[[], None]]

PRELOADED = ["__main__", "torch", "numpy", "numpy.random", "fastload._worker.loop"]

IMPORTED_FOR_WORKERS = ["numpy.random", "multiprocessing.popen_fork"]

PAUSES_S = (0.01, 0.1, 1.0)
"""How long to wait before the server of forkserver is asked again, which was just ending."""

DESCRIPTORS_A_WORKER = 4
"""Orders, reports, and the two that multiprocessing has for each process."""

DESCRIPTORS_A_POOL = 16
"""At most, while its last worker is started; five of them stay."""


class Starter:
    """Starts the workers of one pool; any of them again if it died."""

    def __init__(
        self,
        spec: WorkerSpec,
        arena: Arena | None,
        context: Any,
        shared: SharedEnds,
        closers: Closers,
        queue: TaskQueue | None,
    ) -> None:
        """What must be closed when no more workers will be started is added to ``closers``."""
        self._content: WorkerSpec | SharedPickle = spec
        self._arena = arena
        self._queue = queue
        self._context = context
        self._shared = shared
        pipes.look_for_native_handler()
        if arena is not None:
            closers.append(arena.close_descriptor)
        if queue is not None:
            closers.append(queue.close_theirs)
        if not forks(context):
            # What can't be pickled once (locks, queues, shared tensors) goes the way torch's does,
            # pickled anew for each worker; so does what can't be pickled at all, and raises there.
            with own_suppressed(Exception):
                self._content = SharedPickle.pack(spec)
        if isinstance(self._content, SharedPickle):
            closers.append(self._content.close)

    def start(self, worker_id: int) -> WorkerHandle:
        """Start one worker.

        Raises:
            TypeError: The context's processes are threads.
            OSError: The system refuses another process or pipe.
            Exception: Under spawn or forkserver, the specification could not be pickled.
        """
        try:
            with descriptors.standard_numbers_occupied():
                return self._start_with_server(worker_id)
        except (OSError, EOFError):
            raise
        except Exception as error:
            if not forks(self._context) and not is_from_outside(error):
                method = self._context.get_start_method()
                annotate(
                    error,
                    f"while a worker was started by {method!r}: the dataset, collate_fn and "
                    f"worker_init_fn must be picklable for that",
                )
            raise

    def _start_with_server(self, worker_id: int) -> WorkerHandle:
        """Start a worker; again, by another server of forkserver, if that one ends meanwhile.

        Raises:
            EOFError, ConnectionError: That server ended again and again.
        """
        for pause_s in PAUSES_S:
            try:
                return self._start_once(worker_id)
            except (EOFError, ConnectionError):
                if self._context.get_start_method() != "forkserver":
                    raise
            time.sleep(pause_s)  # until the system says that it has ended
        return self._start_once(worker_id)

    def _start_once(self, worker_id: int) -> WorkerHandle:
        queue = None if self._queue is None else self._queue.end_of(worker_id)
        return _start(worker_id, self._content, self._arena, queue, self._context, self._shared)


def close_all(closers: Closers) -> None:
    """Call each, once."""
    while closers:
        closers.pop()()


def context_of(loader_context: Any) -> Any:
    """The multiprocessing context to start workers in, prepared so that they start fast.

    Raises:
        TypeError: The context's processes are threads.
    """
    context = multiprocessing.get_context() if loader_context is None else loader_context
    _check_has_processes(context.Process, context)
    if forks(context):
        # What torch and multiprocessing import only in a worker: once here instead of in each, and
        # not in the middle of it when another worker is forked.
        for name in IMPORTED_FOR_WORKERS:
            importlib.import_module(name)
        imports.wait_for_imports()
    if context.get_start_method() == "forkserver":
        before = getattr(forkserver._forkserver, "_preload_modules", [])
        context.set_forkserver_preload(list(dict.fromkeys([*before, *PRELOADED])))
    return context


def signals_deferred(context: Any) -> contextlib.AbstractContextManager[None]:
    """While workers are forked and until somebody has them: no handler of a signal runs."""
    return signals.defer() if forks(context) else contextlib.nullcontext()


@contextlib.contextmanager
def opening_files_for(workers: int) -> Iterator[None]:
    """Open what a pool needs: under numbers that are free for it, or with an error that says more.

    Raises:
        OSError: ``EMFILE``: with how many files the workers need and which limit to raise.
    """
    try:
        with descriptors.standard_numbers_occupied():
            yield
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise OSError(errno.EMFILE, _too_many_files(workers)) from error


def check_room_for(workers: int) -> None:
    """See whether so many workers can be started, before the first of them is.

    Raises:
        OSError: ``EMFILE``: they need more open files than the process may still open.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        is_open = psutil.Process().num_fds()
    except (psutil.Error, OSError):  # then the worker for which there is no room says so
        return
    if is_open + DESCRIPTORS_A_WORKER * workers > soft:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _too_many_files(workers: int) -> str:
    needed = DESCRIPTORS_A_WORKER * workers + DESCRIPTORS_A_POOL
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with own_suppressed(psutil.Error, OSError):
        is_open = psutil.Process().num_fds()
        return (
            f"Too many open files: {workers} workers need {needed}, {is_open} are open already, "
            f"and RLIMIT_NOFILE allows this process {soft} (hard limit {hard}). Raise it to at "
            f"least {is_open + needed}: `ulimit -n {is_open + needed}` in the shell, or "
            f"resource.setrlimit in the program; or use fewer workers"
        )
    return (
        f"Too many open files: {workers} workers need {needed}, and RLIMIT_NOFILE allows this "
        f"process {soft} (hard limit {hard}). Raise it (`ulimit -n`) or use fewer workers"
    )


def forks(context: Any) -> bool:
    """Whether workers are forked, and so inherit what they need."""
    return bool(context.get_start_method() == "fork")


def _check_has_processes(process: Any, context: Any) -> None:
    """Refuse threads that pose as processes, before one of them is started.

    What a worker sets up in its process (it is killed with its consumer, its seeds, its allocator,
    its signal handlers) would change, or kill, the training process.

    Args:
        process: A process of the context that was not started, or what makes one.
        context: Named in the error.

    Raises:
        TypeError: They are threads.
    """
    kind = process if isinstance(process, type) else type(process)
    if issubclass(kind, threading.Thread):
        raise _no_processes_error(kind, context)


def _check_is_elsewhere(process: Any, context: Any) -> None:
    """Refuse a process that was started and is none, which its class did not tell.

    Raises:
        TypeError: It has no number of a process, or that of this one.
    """
    try:
        os.kill(process.pid, 0)
    except (OverflowError, TypeError) as error:
        raise _no_processes_error(type(process), context) from error
    except OSError:  # it has ended already, and somebody has reaped it
        return
    if process.pid == os.getpid():
        raise _no_processes_error(type(process), context)


def _no_processes_error(kind: type, context: Any) -> TypeError:
    return TypeError(
        f"multiprocessing_context={context!r} starts no processes but {kind.__name__} in this "
        f"one, and workers must be processes. Give 'fork', 'forkserver', 'spawn' or a context of "
        f"multiprocessing.get_context(); num_workers=0 loads in the calling thread, and "
        f"torch.utils.data.DataLoader can load in such threads"
    )


def _start(
    worker_id: int,
    content: WorkerSpec | SharedPickle,
    arena: Arena | None,
    queue: TaskQueueEnd | None,
    context: Any,
    shared: SharedEnds,
) -> WorkerHandle:
    with descriptors.fork_lock, contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
        orders_read, orders_write = _pipe(theirs, undo, worker_reads=True)
        reports_read, reports_write = _pipe(theirs, undo, worker_reads=False)
        lifeline_read, lifeline_write = shared.open_lifeline()
        theirs.callback(os.close, lifeline_read)
        undo.callback(descriptors.close, lifeline_write)
        stacks = shared.open_stack_file()
        if stacks is not None:
            theirs.callback(os.close, stacks[0])
            undo.callback(stacks[1].close)
        ends = WorkerEnds(
            worker_id,
            os.getpid(),
            arena,
            Descriptor(orders_read),
            Descriptor(reports_write),
            Descriptor(lifeline_read),
            None if stacks is None else Descriptor(stacks[0]),
            queue,
        )
        process = context.Process(
            target=work, args=(ends, content), name=f"fastload-worker-{worker_id}", daemon=False
        )
        _check_has_processes(process, context)
        with forking_workers(shared), _allowed_to_have_children():
            _start_process(process, context)
        _check_is_elsewhere(process, context)
        undo.pop_all()
        return WorkerHandle(
            process,
            context.get_start_method(),
            orders_write,
            reports_read,
            lifeline_write,
            None if stacks is None else stacks[1],
        )


def _start_process(process: Any, context: Any) -> None:
    """Start a process: by fork, between the imports of other threads; else without a SIGPIPE.

    Under spawn and forkserver, multiprocessing writes to a pipe that the process reads. A spawned
    process that is not ready for a Ctrl-C yet, which goes to the whole group, does not get it.
    """
    if forks(context):
        with imports.forking_between_imports():
            process.start()
        return
    is_quiet = pipes.is_sigpipe_ignored()
    # Both servers are started before anything is blocked: their children would inherit that.
    with contextlib.nullcontext() if is_quiet else pipes.sigpipe_blocked():
        resource_tracker.ensure_running()
    is_spawned = context.get_start_method() == "spawn"
    if not is_spawned:
        forkserver.ensure_running()
    with (
        signals.sigint_blocked() if is_spawned else contextlib.nullcontext(),
        contextlib.nullcontext() if is_quiet else pipes.sigpipe_blocked(),
    ):
        process.start()


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
