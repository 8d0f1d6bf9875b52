"""Where an epoch stands, so that another process can go on from there.

Runs in: consumer.
Takes: the position of the newest iterator, or a state saved by another process.
Gives: a state of plain values and tensors, with the keys of torchdata's StatefulDataLoader where it
has them; and the random state in which an epoch's order can be drawn again.

A state says what identifies the batches of an epoch (the settings of ``settings.py`` and the random
state from which its order was drawn) and where the epoch stands (the number of batches delivered
and the dataset's own state). A loader with other settings refuses it.

A map-style epoch is its order and the number of batches delivered: the order is drawn again, the
delivered part of it is skipped without loading anything. So it does not depend on the number of
workers. A stream is read again from the start and what was delivered is thrown away, unless it was
read without workers and it, or its iterator, has ``state_dict``.

Random draws *inside the dataset* are not part of the promise: with workers each worker starts
from its seed again.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset

from fastload._epoch.loader import Loader
from fastload._epoch.sampler_generators import generators_of, samplers_of, set_state, state_of
from fastload._epoch.settings import (
    differences,
    keeps_order,
    length_of,
    settings_of,
    workers_of,
)
from fastload._loading.dataset_state import DatasetState, StateSource
from fastload._system.interruptions import is_from_outside
from fastload.datasets.ranks_and_workers import epoch_of
from fastload.samplers.batches import is_known
from fastload.samplers.epochs import iter_from

VERSION = 3
_OURS = "fastload"
_MODE = "torch"
"""Of states whose order is drawn as torch draws it: from the program's random state."""

INLINE, NEW_WORKERS, KEPT_WORKERS = "inline", "new workers", "kept workers"
"""How an epoch began, which says when torch draws the workers' base seed: after it has made the
sampler's iterator (inline), between making it and making it again (new workers), or not at all
(kept workers)."""


class EpochPosition:
    """How far the newest iterator of a loader has come.

    A batch that raised counts once the iterator has gone on: whoever saves a state because of the
    error gets that batch again, whoever goes on does not.

    Attributes:
        start: What the epoch's order follows from, as ``draw_start`` returns it.
        yielded: Batches delivered, or left out.
        num_workers: How many workers read the dataset.
        settings: What ``settings_of`` returned when a state of the epoch was first asked for.
        source: Where the dataset's state can be asked for; None if workers read it.
        is_finished: Whether the end of the epoch was seen.
    """

    def __init__(self, start: dict[str, Any], yielded: int, num_workers: int) -> None:
        self.start = start
        self.yielded = yielded
        self.num_workers = num_workers
        self.source: StateSource | None = None
        self.settings: dict[str, Any] | None = None
        self.is_finished = False
        self._raised = 0

    @property
    def asked_for(self) -> int:
        """Batches delivered, left out, or raised."""
        return self.yielded + self._raised

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

    def draw(self, loader: Loader) -> Iterator[Any]:
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


def draw_start(loader: Loader, began: str) -> dict[str, Any]:
    """What the order of the epoch that begins now follows from; ``_plain`` makes it savable."""
    draws_elsewhere = not is_known(loader._index_sampler)
    return {
        "began": began,
        "torch": torch.get_rng_state(),
        "numpy": _numpy_state(began) if draws_elsewhere else None,
        "python": random.getstate() if draws_elsewhere else None,
        "generators": [state_of(generator) for generator in generators_of(loader)],
        "epochs": [sampler.epoch for sampler in _epoch_samplers(loader)],
        "dataset_epoch": epoch_of(loader.dataset),
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
    """Make a start savable: its large parts become tensors, if they are not yet."""
    plain = dict(start)
    if start["python"] is not None:
        version, numbers, next_gauss = start["python"]
        plain["python"] = [version, torch.as_tensor(numbers, device="cpu"), next_gauss]
    if start["numpy"] is not None:
        kind, keys, *others = start["numpy"]
        plain["numpy"] = [kind, torch.as_tensor(keys, device="cpu").to(torch.int64), *others]
    return plain


@contextlib.contextmanager
def with_saved_rng(loader: Loader, start: dict[str, Any]) -> Iterator[None]:
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


def _restore(loader: Loader, start: dict[str, Any]) -> None:
    torch.set_rng_state(start["torch"])
    if start["python"] is not None:
        version, numbers, next_gauss = start["python"]
        random.setstate((version, tuple(numbers.tolist()), next_gauss))
    if start["numpy"] is not None:
        kind, keys, place, has_gauss, gauss = start["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, gauss))
    for generator, state in zip(generators_of(loader), start["generators"], strict=True):
        set_state(generator, state)
    for sampler, epoch in zip(_epoch_samplers(loader), start["epochs"], strict=False):
        sampler.set_epoch(epoch)
    if start["dataset_epoch"] is not None and start["dataset_epoch"] != epoch_of(loader.dataset):
        loader.dataset.set_epoch(start["dataset_epoch"])


def begin(loader: Loader, make_iterator: Callable[[], Any], began: str) -> Any:
    """Make an iterator, at the beginning of an epoch or where a loaded state says.

    Raises:
        ValueError: The dataset does not take its state; or a stream that is read again ends before
            the batches that were delivered of it.
    """
    live = loader._live
    state, live.state = live.state, None
    start = _start_of(state)
    live.dataset_state = None if state is None else _dataset_state(state)
    workers = workers_of(loader)
    if state is None or start is None:
        position = EpochPosition(draw_start(loader, began), 0, workers)
        return live.add(make_iterator(), position)
    delivered = state["_sampler_iter_yielded"]
    is_stream = isinstance(loader.dataset, IterableDataset)
    is_replayed = reads_again(loader, state)
    rest = None if is_stream else Remainder(start, delivered)
    with with_saved_rng(loader, start), live.resuming(rest):
        iterator = make_iterator()
    position = EpochPosition(start, 0 if is_replayed else delivered, workers)
    live.add(iterator, position)
    if is_replayed:
        _throw_away(iterator, position, delivered)
    return iterator


def _throw_away(iterator: Iterator[Any], position: EpochPosition, delivered: int) -> None:
    """Read what was delivered of a stream once more; what raised then raises again, unheard."""
    while position.asked_for < delivered:
        before = position.asked_for
        try:
            next(iterator)
        except StopIteration:
            raise ValueError(
                f"this state is of a stream of which {delivered} batches were delivered, but it "
                f"ended after {position.asked_for}; read the stream that the state was saved of, "
                f"or begin a new epoch without loading the state"
            ) from None
        except Exception as error:
            if position.asked_for == before or is_from_outside(error):  # no error of a batch
                raise


def save(loader: Loader, position: EpochPosition | None) -> dict[str, Any]:
    """The state of a loader; new and plain at each call.

    The dataset is asked for its own only if an epoch has begun.
    """
    yielded = 0 if position is None else position.yielded
    samples = yielded * (loader.batch_size or 1)
    source = None if position is None else position.source
    dataset = DatasetState() if source is None else source.state()
    if dataset.is_known:
        dataset = copy.deepcopy(dataset)
    fetcher_state = None
    if source is not None and source.is_stream:
        fetcher_state = {
            "dataset_iter_state": dataset.iterator,
            "fetcher_ended": dataset.has_ended,
        }
    return {
        "_index_sampler_state": None,
        "_sampler_iter_state": {"samples_yielded": samples},
        "_sampler_iter_yielded": yielded,
        "_num_yielded": yielded,
        "_IterableDataset_len_called": loader._IterableDataset_len_called,
        "_shared_seed": None,
        "fetcher_state": fetcher_state,
        "dataset_state": dataset.dataset,
        "_iterator_finished": position is not None and position.is_finished,
        _OURS: {
            "version": VERSION,
            "mode": _MODE,
            "kind": _kind_of(loader),
            "length": length_of(loader),
            "in_order": keeps_order(loader),
            "settings": None if position is None else _settings_at(loader, position),
            "start": None if position is None else _plain(position.start),
        },
    }


def _settings_at(loader: Loader, position: EpochPosition) -> dict[str, Any]:
    """The settings of an epoch; looked up once, because trainers ask for a state at each batch."""
    if position.settings is None:
        position.settings = settings_of(loader, position.num_workers)
    return {
        name: dict(value) if isinstance(value, dict) else value
        for name, value in position.settings.items()
    }


def check(loader: Loader, state: dict[str, Any]) -> None:
    """Refuse a state that does not fit.

    Raises:
        ValueError: It is no state of this kind; or it was saved by a loader whose batches are
            others: of another dataset, in another order or size, for another number of ranks, or
            of a stream that was read by another number of workers.
    """
    ours = state.get(_OURS) if isinstance(state, dict) else None
    version = ours.get("version") if isinstance(ours, dict) else None
    if not isinstance(ours, dict) or version not in (2, VERSION):
        raise ValueError(
            "this is not a state that fastload.DataLoader.state_dict() returned, or that of an "
            "incompatible version"
        )
    if ours.get("mode", _MODE) != _MODE:
        raise ValueError(
            f"this state was saved in mode {ours['mode']!r}; this loader is in mode {_MODE!r}, "
            f"which draws another order. Load it into a loader of that mode"
        )
    if not state.get("_iterator_finished"):
        _check_order(loader, ours)
    if ours.get("length") != length_of(loader) and ours.get("kind") == _kind_of(loader):
        raise ValueError(
            f"this state is of a dataset of length {ours.get('length')}; this loader's has length "
            f"{length_of(loader)}, so its order would be another one"
        )
    if _start_of(state) is None:
        return
    if version != VERSION:
        raise ValueError(
            f"this state was saved in the middle of an epoch by a version of fastload that wrote "
            f"format {version}, which does not say what the epoch's order depends on; this version "
            f"reads format {VERSION}. Resume with the version that saved it and save the state at "
            f"the end of the epoch, or begin a new epoch without loading the state"
        )
    if ours["kind"] != _kind_of(loader):
        raise ValueError(
            f"this state is of a dataset that is {ours['kind']}; this loader's is "
            f"{_kind_of(loader)}. Load it into a loader of the dataset that it was saved of"
        )
    _check_settings(loader, state)


def _check_order(loader: Loader, ours: dict[str, Any]) -> None:
    if not keeps_order(loader):
        raise ValueError("an epoch with in_order=False can't be resumed; use in_order=True")
    if not ours.get("in_order", True):
        raise ValueError(
            "this state was saved with in_order=False, so the number of batches delivered does not "
            "say which those were; this loader has in_order=True. Save states of a loader with "
            "in_order=True, or begin a new epoch without loading the state"
        )


def _check_settings(loader: Loader, state: dict[str, Any]) -> None:
    ours = state[_OURS]
    saved, here = ours["settings"], settings_of(loader, workers_of(loader))
    found = differences(saved, here, is_replayed=_dataset_state(state) is None)
    count = len(generators_of(loader))
    if not found and len(ours["start"]["generators"]) != count:
        found = [("generators of loader and samplers", len(ours["start"]["generators"]), count)]
    if found:
        was = ", ".join(f"{name}={value!r}" for name, value, _ in found)
        now = ", ".join(f"{name}={value!r}" for name, _, value in found)
        raise ValueError(
            f"this state was saved with {was}; this loader has {now}, so its batches are others "
            f"and some samples would be lost or repeated. Make the loader as it was when the state "
            f"was saved, or begin a new epoch without loading the state"
        )


def _kind_of(loader: Loader) -> str:
    return "iterable-style" if isinstance(loader.dataset, IterableDataset) else "map-style"


def _start_of(state: dict[str, Any] | None) -> Any:
    """The random state of the epoch to go on with; None if it had not begun, or has ended."""
    if state is None or state.get("_iterator_finished"):
        return None
    return state[_OURS].get("start")


def _dataset_state(state: dict[str, Any]) -> DatasetState | None:
    """What the dataset is to go on from; None if there is nothing that it could load."""
    if state[_OURS]["version"] != VERSION:
        return None
    fetcher = state["fetcher_state"] or {"dataset_iter_state": None, "fetcher_ended": False}
    found = DatasetState(
        state["dataset_state"],
        fetcher["dataset_iter_state"],
        fetcher["fetcher_ended"],
        state["_iterator_finished"],
    )
    return found if found.is_known else None


def reads_again(loader: Loader, state: dict[str, Any]) -> bool:
    """Whether a state is gone on from by reading a stream from its beginning."""
    is_stream = isinstance(loader.dataset, IterableDataset)
    return is_stream and _start_of(state) is not None and _dataset_state(state) is None


def finish(state: dict[str, Any]) -> None:
    """Make a state that was taken behind an epoch's last batch one of the epoch's end.

    What the dataset says then is of a place before the end, where no epoch can begin.
    """
    state.update(_iterator_finished=True, dataset_state=None, fetcher_state=None)


def is_delivered(loader: Loader, state: dict[str, Any]) -> bool:
    """Whether the state was taken after the last batch of an epoch, but before its end was seen."""
    try:
        return bool(state["_num_yielded"] >= len(loader))
    except (TypeError, NotImplementedError):
        return False


def _epoch_samplers(loader: Loader) -> list[Any]:
    return [s for s in samplers_of(loader) if hasattr(s, "epoch") and hasattr(s, "set_epoch")]
