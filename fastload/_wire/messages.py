"""The messages that cross a pipe between the consumer and a worker.

Runs in: consumer and worker.

    consumer ── Begin, Task, SharedTask, Cancel, Stop ──▶ worker
    consumer ◀── Loaded, Failed, Empty, Unfit, Ended, Cancelled ── worker

A *run* is one pass of one iterator over the dataset. Runs of one pool may overlap, so each message
but Stop carries the number of its run; ``sequence`` is the number of a task within it.
"""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

from fastload._memory.layout import Layout
from fastload._wire.channel import Frame, FrameWithMemory
from fastload._wire.task_queue import SharedTask


class SeededBegin(NamedTuple):
    """Says where one pass over a seeded stream begins, and how the stream is dealt to ranks.

    Attributes:
        seed, epoch: What random numbers follow from.
        start: The position at which the pass begins.
        batch_size: The number of samples of a batch on one rank.
        ranks, rank: The number of ranks, and which one this is.
        drop_last: Whether an incomplete step is left out.
        even: What becomes of an incomplete step where there are several ranks.
        redo: Whether generators are set only once they are seen to be drawn from.
    """

    seed: int
    epoch: int
    start: int = 0
    batch_size: int = 1
    ranks: int = 1
    rank: int = 0
    drop_last: bool = False
    even: str = "pad"
    redo: bool = True


class Begin(NamedTuple):
    """Tells a worker that a run starts, for which it makes a fetcher.

    Attributes:
        run: The number of the run.
        shared_seed: The seed for torch's IterDataPipes.
        dataset_state: A pickled ``DatasetState`` from which the dataset goes on: that of a saved
            state, or what a worker that died had reported last.
        epoch: What ``dataset.set_epoch`` was given in the consumer, unknown to other copies.
        seeded: There if the loader has a seed, from which all random numbers follow then.
    """

    run: int
    shared_seed: int | None
    dataset_state: bytes | None = None
    epoch: int | None = None
    seeded: SeededBegin | None = None


class Task(NamedTuple):
    """Tells a worker to load one batch; ``indices`` is what the sampler yielded, packed.

    The worker writes it to any slot that is granted to it; the report names the slot.
    """

    run: int
    sequence: int
    indices: bytes


class Cancel(NamedTuple):
    """Tells a worker to forget a run, its tasks and its fetcher, and to answer Cancelled.

    If the run ``is_over``, no task of it is left, and there is no answer.
    """

    run: int
    is_over: bool


class Stop(NamedTuple):
    """Tells a worker to leave."""


Stamps = tuple[int, int, int, int, int, int, int, str, int, int]
"""Says when a task passed which stage in its worker, by the clock that all processes share.

In this order: ``samples``, ``started_ns``, ``fetched_ns``, ``collated_ns``, ``written_ns``,
``fetch_cpu_ns``, ``cpu_ns``, ``slowest``, ``slowest_ns``, ``peak_bytes``. Samples are those asked
for; CPU times are the thread's, since ``started_ns``. ``slowest`` is the index of the slowest
sample, as text, where samples are slow enough to be timed singly. ``peak_bytes`` is the most memory
the worker ever had resident; 0 where it was not asked. It is a plain tuple, since there is one a
batch.
"""


class Skip(NamedTuple):
    """A sample that could not be loaded; ``error`` is an exception that was packed."""

    index: Any
    error: bytes


class Loaded(NamedTuple):
    """Reports that a batch was loaded and lies in ``slot``.

    ``layout`` and ``skeleton`` are None where they are those of the worker's batch before.
    ``skeleton_at`` says where in the slot the skeleton lies if it is too long for a message. If the
    slot has no room for it, it is the last one of ``attached``; the skeleton refers to the others.
    ``dataset_state`` is a stream's state behind this batch, pickled, where a restart may need it.
    ``skipped`` are the samples that could not be loaded and were left out or replaced.
    """

    run: int
    sequence: int
    slot: int
    used_bytes: int
    stamps: Stamps
    layout: Layout | None
    skeleton: bytes | None
    skeleton_at: tuple[int, int] | None
    dataset_state: bytes | None = None
    skipped: tuple[Skip, ...] = ()
    attached: tuple[Any, ...] = ()


class Failed(NamedTuple):
    """Reports that a task raised; ``error`` was packed by ``fastload._wire.exceptions``."""

    run: int
    sequence: int
    slot: int
    error: bytes


class Empty(NamedTuple):
    """Reports that no sample of a batch could be loaded; ``on_error`` allows to go without."""

    run: int
    sequence: int
    slot: int
    skipped: tuple[Skip, ...]


class Unfit(NamedTuple):
    """The parts of a batch can't be put together; it must be loaded by one worker."""

    run: int
    sequence: int


class Ended(NamedTuple):
    """Reports for this task, and each after it, that the worker's part of a stream has ended."""

    run: int
    sequence: int
    slot: int


class Cancelled(NamedTuple):
    """Reports that the worker has forgotten the run."""

    run: int


Order = Begin | Task | SharedTask | Cancel | Stop
Outcome = Loaded | Failed | Empty | Ended
Report = Outcome | Unfit | Cancelled


def encode(message: Order | Report) -> bytes:
    """Return the bytes of one frame.

    They are a pickled plain tuple, which takes a third of the time of a named one.
    """
    return pickle.dumps((_NUMBERS[type(message)], tuple(message)), protocol=5)


def encode_task(run: int, sequence: int, indices: bytes) -> bytes:
    """Return the same as ``encode(Task(...))``, once a batch and so without a named tuple."""
    return pickle.dumps((_TASK, (run, sequence, indices)), protocol=5)


def decode(frame: Frame) -> Any:
    """Return the message in a frame."""
    if isinstance(frame, FrameWithMemory):
        return decode(frame.frame)._replace(attached=frame.attached)
    number, fields = pickle.loads(frame)
    return _new(_KINDS[number], fields)


_new: Any = tuple.__new__  # half of what a named tuple's own ``_make`` takes
_KINDS: tuple[Any, ...] = (
    *(Begin, Task, SharedTask, Cancel, Stop),
    *(Loaded, Failed, Empty, Unfit, Ended, Cancelled),
)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_TASK = _NUMBERS[Task]
