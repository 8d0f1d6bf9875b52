"""Put clocks around the dataset and the collate function of torch's own loader.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a dataset and a collate function.
Gives: the same batches, each with the stamps that our own loader would have sent.

Nothing of torch is replaced: the loader gets a dataset and a collate function, as always.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from fastload._torch_private import pin_memory
from fastload.errors import show


class Moments(NamedTuple):
    """The stamps of one batch; see ``fastload.stats.rows.Row``."""

    worker: int
    samples: int
    started: int
    fetched: int
    collated: int
    fetch_cpu: int
    cpu: int
    slowest: str
    slowest_ns: int


class Stamped:
    """A batch and its moments, as a worker sends them."""

    def __init__(self, batch: Any, moments: Moments) -> None:
        self.batch = batch
        self.moments = moments

    def pin_memory(self) -> Stamped:
        """Pin the batch: torch's loader calls this where batches are pinned."""
        return Stamped(pin_memory(self.batch), self.moments)


class _BatchClock:
    """The clock of the batch that this process is loading."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.started_ns = self.started_cpu_ns = self.slowest_ns = 0
        self.slowest = ""

    def start(self) -> int:
        now_ns = time.monotonic_ns()
        if not self.started_ns:
            self.started_ns, self.started_cpu_ns = now_ns, time.thread_time_ns()
        return now_ns

    def note(self, index: Any, elapsed_ns: int) -> None:
        if elapsed_ns > self.slowest_ns:
            self.slowest_ns, self.slowest = elapsed_ns, show(index)


_clock = _BatchClock()
"""One a process: a worker loads one batch after the other."""


class _Around:
    """Passes everything on to the dataset inside, also what a ``worker_init_fn`` sets on it."""

    def __init__(self, inside: Any) -> None:
        vars(self)["_inside"] = inside

    def __getattr__(self, name: str) -> Any:
        if name == "_inside":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self._inside, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inside, name, value)

    def __reduce__(self) -> Any:
        return type(self), (self._inside,)

    def __len__(self) -> int:
        return len(self._inside)


class _Samples(_Around, Dataset[Any]):
    def __getitem__(self, index: Any) -> Any:
        started_ns = _clock.start()
        sample = self._inside[index]
        _clock.note(index, time.monotonic_ns() - started_ns)
        return sample


class _Batches(_Samples):
    def __getitems__(self, indices: Any) -> Any:
        _clock.start()
        return self._inside.__getitems__(indices)


class _Stream(_Around, IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        number = 0
        samples = iter(self._inside)
        while True:
            started_ns = _clock.start()
            try:
                sample = next(samples)
            except StopIteration:
                return
            _clock.note(number, time.monotonic_ns() - started_ns)
            number += 1
            yield sample


class _Collate:
    def __init__(self, collate_fn: Callable[[Any], Any], batched: bool) -> None:
        self._collate_fn = collate_fn
        self._batched = batched

    def __call__(self, samples: Any) -> Stamped:
        fetched_ns, fetched_cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        batch = self._collate_fn(samples)
        collated_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        info = get_worker_info()
        moments = Moments(
            -1 if info is None else info.id,
            len(samples) if self._batched else 1,
            _clock.started_ns or fetched_ns,
            fetched_ns,
            collated_ns,
            fetched_cpu_ns - (_clock.started_cpu_ns or fetched_cpu_ns),
            cpu_ns - (_clock.started_cpu_ns or fetched_cpu_ns),
            _clock.slowest,
            _clock.slowest_ns,
        )
        _clock.reset()
        return Stamped(batch, moments)


def clocked(loader: Any) -> dict[str, Any]:
    """Return dataset and collate function for a loader like this one, with clocks."""
    dataset = loader.dataset
    _clock.reset()
    if isinstance(dataset, IterableDataset):
        around: Any = _Stream(dataset)
    elif getattr(dataset, "__getitems__", None):
        around = _Batches(dataset)
    else:
        around = _Samples(dataset)
    return {
        "dataset": around,
        "collate_fn": _Collate(
            loader.collate_fn, loader.batch_size is not None or loader.batch_sampler is not None
        ),
    }
