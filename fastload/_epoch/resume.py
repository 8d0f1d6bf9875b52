"""Where an epoch stands, so that another process can go on from there.

Runs in: consumer.
Takes: the position of the newest iterator, or a state saved by another process.
Gives: a state of plain values and tensors, with the keys of torchdata's StatefulDataLoader where it
has them; and the random state in which an epoch's order can be drawn again.

A map-style epoch is its order and the number of batches delivered: the order is drawn again, the
delivered part of it is skipped without loading anything. So it does not depend on the number of
workers. A stream is read again from the start and what was delivered is thrown away, unless the
dataset has ``state_dict`` and there are no workers.

Random draws *inside the dataset* are not part of the promise: with workers each worker starts
from its seed again.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from fastload.samplers.batches import is_known
from fastload.samplers.epochs import iter_from, nested

VERSION = 2
_OURS = "fastload"

INLINE, NEW_WORKERS, KEPT_WORKERS = "inline", "new workers", "kept workers"
"""How an epoch began. Torch draws the workers' base seed after it has made the sampler's iterator
(inline), between making it and making it again (new workers), or not at all (kept workers)."""


class EpochPosition:
    """How far the newest iterator of a loader has come.

    A batch that raised counts once the iterator has gone on: whoever saves a state because of the
    error gets that batch again, whoever goes on does not.
    """

    def __init__(self, start: dict[str, Any], yielded: int) -> None:
        self.start = start
        self.yielded = yielded
        self.is_finished = False
        self._raised = 0

    def advance(self) -> None:
        """A batch was delivered, or left out."""
        self.yielded += 1 + self._raised
        self._raised = 0

    def note_error(self) -> None:
        """A batch raised."""
        self._raised += 1


class Remainder(NamedTuple):
    """The part of an epoch that is left: how its order is drawn, and what was delivered of it."""

    start: dict[str, Any]
    delivered: int

    def draw(self, loader: Any) -> Iterator[Any]:
        """Indices of the batches that were not delivered; the beginning is drawn at once.

        A sampler that can begin anywhere does; otherwise its pass is walked along.
        """
        _restore(loader, self.start)
        indices = iter(loader._index_sampler)
        if self.start["began"] != KEPT_WORKERS:
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        if self.start["began"] == NEW_WORKERS:
            indices = iter(loader._index_sampler)
        rest = None
        if self.delivered:
            rest = iter_from(loader._index_sampler, self.delivered)
        rest = rest or itertools.islice(indices, self.delivered, None)
        return itertools.chain(tuple(itertools.islice(rest, 1)), rest)


def draw_start(loader: Any, began: str) -> dict[str, Any]:
    """What the order of the epoch that begins now follows from; not yet as it is saved."""
    draws_elsewhere = not is_known(loader._index_sampler)
    return {
        "began": began,
        "torch": torch.get_rng_state(),
        "numpy": _numpy_state(began) if draws_elsewhere else None,
        "python": random.getstate() if draws_elsewhere else None,
        "generators": [generator.get_state() for generator in _generators(loader)],
        "epochs": [sampler.epoch for sampler in _epoch_samplers(loader)],
    }


def _numpy_state(began: str) -> Any:
    """The state of NumPy's global generator; None where nobody can have seeded it.

    ``numpy.random`` takes ten milliseconds to import, which a loader without workers does not need;
    workers inherit it by fork.
    """
    if began == INLINE and "numpy.random" not in sys.modules:
        return None
    return np.random.get_state()


def _plain(start: dict[str, Any]) -> dict[str, Any]:
    """A start as it is saved: its large parts are tensors. It may be so already."""
    plain = dict(start)
    if start["python"] is not None:
        version, numbers, next_gauss = start["python"]
        plain["python"] = [version, torch.as_tensor(numbers), next_gauss]
    if start["numpy"] is not None:
        kind, keys, *others = start["numpy"]
        plain["numpy"] = [kind, torch.as_tensor(keys).to(torch.int64), *others]
    return plain


@contextlib.contextmanager
def with_saved_rng(loader: Any, start: dict[str, Any]) -> Iterator[None]:
    """Draw an epoch's order as it was drawn; the program's own random state is put back after.

    Generators that were handed to the loader or its samplers go on from the order that was drawn.
    """
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    _restore(loader, start)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def _restore(loader: Any, start: dict[str, Any]) -> None:
    torch.set_rng_state(start["torch"])
    if start["python"] is not None:
        version, numbers, next_gauss = start["python"]
        random.setstate((version, tuple(numbers.tolist()), next_gauss))
    if start["numpy"] is not None:
        kind, keys, place, has_gauss, gauss = start["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, gauss))
    for generator, state in zip(_generators(loader), start["generators"], strict=True):
        generator.set_state(state)
    for sampler, epoch in zip(_epoch_samplers(loader), start["epochs"], strict=False):
        sampler.set_epoch(epoch)


def save(loader: Any, position: EpochPosition | None) -> dict[str, Any]:
    """The state of a loader; new and plain at each call."""
    yielded = 0 if position is None else position.yielded
    samples = yielded * (loader.batch_size or 1)
    return {
        "_index_sampler_state": None,
        "_sampler_iter_state": {"samples_yielded": samples},
        "_sampler_iter_yielded": yielded,
        "_num_yielded": yielded,
        "_IterableDataset_len_called": loader._IterableDataset_len_called,
        "_shared_seed": None,
        "fetcher_state": None,
        "dataset_state": _dataset_state(loader),
        "_iterator_finished": position is not None and position.is_finished,
        _OURS: {
            "version": VERSION,
            "length": _length(loader),
            "start": None if position is None else _plain(position.start),
        },
    }


def check(loader: Any, state: dict[str, Any]) -> None:
    """Refuse a state that does not fit.

    Raises:
        ValueError: It is no state of this kind, or of a dataset of another length; or batches
            come in no order, so that a number of them says nothing.
    """
    ours = state.get(_OURS) if isinstance(state, dict) else None
    if not isinstance(ours, dict) or ours.get("version") != VERSION:
        raise ValueError(
            "this is not a state that fastload.DataLoader.state_dict() returned, or that of an "
            "incompatible version"
        )
    if loader.num_workers > 0 and not loader.in_order:
        raise ValueError("an epoch with in_order=False can't be resumed; use in_order=True")
    if ours["length"] != _length(loader):
        raise ValueError(
            f"this state is of a dataset of length {ours['length']}; this loader's has length "
            f"{_length(loader)}, so its order would be another one"
        )


def start_of(state: dict[str, Any] | None) -> Any:
    """The random state of the epoch to go on with; None if it had not begun, or has ended."""
    if state is None or state["_iterator_finished"]:
        return None
    return state[_OURS]["start"]


def is_delivered(loader: Any, state: dict[str, Any]) -> bool:
    """Whether the state was taken after the last batch of an epoch, but before its end was seen."""
    try:
        return bool(state["_num_yielded"] >= len(loader))
    except (TypeError, NotImplementedError):
        return False


def _generators(loader: Any) -> list[torch.Generator]:
    found: dict[int, torch.Generator] = {}
    for holder in (loader, *_samplers(loader)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
    return list(found.values())


def _samplers(loader: Any) -> list[Any]:
    return nested(loader.sampler) + nested(loader.batch_sampler)


def _epoch_samplers(loader: Any) -> list[Any]:
    return [s for s in _samplers(loader) if hasattr(s, "epoch") and hasattr(s, "set_epoch")]


def _length(loader: Any) -> int | None:
    try:
        return len(loader.dataset)
    except (TypeError, NotImplementedError):
        return None


def _dataset_state(loader: Any) -> Any:
    if loader.num_workers == 0 and hasattr(loader.dataset, "state_dict"):
        return loader.dataset.state_dict()
    return None
