"""Every way of loading takes every step that a subclass of the loader may override."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.utils.data
from torch.utils.data import BatchSampler, SequentialSampler, TensorDataset

import fastload
from tests.contract.ways import close

LENGTH = 24
TORCH = torch.utils.data.DataLoader
OURS = fastload.DataLoader

WAYS = {
    "inline": {},
    "in_memory": {"num_workers": 2},
    "in_memory_kept": {"num_workers": 2, "persistent_workers": True},
    "automatic": {"num_workers": "auto"},
    "automatic_kept": {"num_workers": "auto", "persistent_workers": True},
    "workers": {"num_workers": 2},
    "workers_kept": {"num_workers": 2, "persistent_workers": True},
    "threads": {"num_workers": 2, "worker_method": "thread"},
    "threads_kept": {"num_workers": 2, "worker_method": "thread", "persistent_workers": True},
}


class Numbers:
    """Its samples have to be loaded, so that workers are of use."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> tuple[torch.Tensor]:
        return (torch.tensor(index),)


def dataset_for(way: str) -> Any:
    return TensorDataset(torch.arange(LENGTH)) if "memory" in way else Numbers()


class Tenfold:
    """An iterator around torch's, as published loaders write it: kept workers need ``_reset``."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return [10 * each for each in next(self.inner)]

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        self.inner._reset(loader, first_iter)


def wrapped(base: Any) -> Any:
    class Wrapped(base):
        def _get_iterator(self) -> Any:
            return Tenfold(super()._get_iterator())

    return Wrapped


def wrapped_by_generator(base: Any) -> Any:
    class Wrapped(base):
        def _get_iterator(self) -> Any:
            return (([10 * each for each in batch]) for batch in super()._get_iterator())

    return Wrapped


def torchs_iter(base: Any) -> Any:
    class WritesIterAnew(base):
        def __iter__(self) -> Any:
            if not (self.persistent_workers and self.num_workers > 0):
                return self._get_iterator()
            if self._iterator is None:
                self._iterator = self._get_iterator()
            else:
                self._iterator._reset(self)
            return self._iterator

    return WritesIterAnew


def iter_by_generator(base: Any) -> Any:
    class Generates(base):
        def __iter__(self) -> Any:
            for (batch,) in super().__iter__():
                yield (10 * batch,)

    return Generates


def other_batches(base: Any) -> Any:
    class OwnBatches(base):
        @property
        def _index_sampler(self) -> Any:
            return BatchSampler(SequentialSampler(range(LENGTH // 2)), 3, drop_last=False)

    return OwnBatches


def without_batching(base: Any) -> Any:
    class Single(base):
        _auto_collation = False

        @property
        def _index_sampler(self) -> Any:
            return self.sampler

    return Single


def other_length(base: Any) -> Any:
    class Shorter(base):
        def __len__(self) -> int:
            return 2

    return Shorter


def batches_replaced_later(base: Any) -> Any:
    class Replaced(base):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            again = BatchSampler(self.sampler, 7, drop_last=True)
            object.__setattr__(self, "batch_sampler", again)

    return Replaced


def collate_function_set_later(base: Any) -> Any:
    class Set(base):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.collate_fn = lambda samples: [torch.stack([-each for (each,) in samples])]

    return Set


SUBCLASSES = [
    wrapped,
    wrapped_by_generator,
    torchs_iter,
    iter_by_generator,
    other_batches,
    without_batching,
    other_length,
    batches_replaced_later,
    collate_function_set_later,
]


def history(make: Callable[..., Any], way: str, options: dict[str, Any]) -> list[Any]:
    """The batches of three epochs, and the random state behind each."""
    torch.manual_seed(7)
    loader = make(dataset_for(way), batch_size=5, shuffle=True, **options)
    seen: list[Any] = []
    for _ in range(3):
        seen.append([[each.tolist() for each in batch] for batch in loader])
        seen.append(torch.get_rng_state().tolist())
    close(loader)
    return seen


@functools.cache
def torchs_history(subclass: Callable[[Any], Any], *, has_workers: bool, is_kept: bool) -> Any:
    """That of a subclass of torch's loader; where its samples lie does not matter to it."""
    options = {"num_workers": 2, "persistent_workers": is_kept} if has_workers else {}
    return history(subclass(TORCH), "workers", options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("subclass", SUBCLASSES, ids=lambda each: each.__name__)
def test_a_subclass_gives_what_it_gives_over_torchs_loader(subclass, way):
    """Batch for batch and draw for draw, over three epochs, in every way of loading."""
    options = WAYS[way]
    is_kept = options.get("persistent_workers", False)
    if subclass is wrapped_by_generator and "kept" in way:
        pytest.skip("torch's loader asks what it keeps for _reset, which a generator has not")
    expected = torchs_history(subclass, has_workers=bool(options), is_kept=is_kept)
    assert history(subclass(OURS), way, options) == expected


@pytest.mark.parametrize("subclass", [wrapped, torchs_iter])
def test_kept_workers_survive_a_subclass(subclass):
    """Whatever a subclass has put into ``_iterator``."""
    loader = subclass(OURS)(
        Numbers(), batch_size=5, collate_fn=_with_pid, num_workers=2, persistent_workers=True
    )
    workers = [{int(pid) for _, pid in loader} for _ in range(3)]  # ten times, if wrapped
    assert workers[0] == workers[1] == workers[2]
    loader.close()


def _with_pid(samples: list[Any]) -> Any:
    return torch.stack([each for (each,) in samples]), torch.tensor(os.getpid())


def test_an_iterator_called_for_directly_is_a_plain_one():
    """As torch's: it draws a base seed of its own and leaves kept workers alone."""
    drawn = []
    for make in (TORCH, OURS):
        torch.manual_seed(3)
        loader = make(Numbers(), batch_size=5, num_workers=2, persistent_workers=True)
        list(loader)
        other = loader._get_iterator()
        drawn.append([[each.tolist() for each in batch] for batch in other])
        drawn.append(torch.get_rng_state().tolist())
        with contextlib.suppress(AttributeError):
            other._shutdown_workers()
        close(loader)
    assert drawn[:2] == drawn[2:]


def test_workers_are_not_kept_by_what_the_loader_no_longer_holds():
    """A trainer that drops ``_iterator`` ends them, also with a subclass that wraps iterators."""
    loader = wrapped(OURS)(Numbers(), batch_size=5, num_workers=2, persistent_workers=True)
    list(loader)
    workers = list(loader._iterator.inner._workers)
    loader._iterator = None
    gc.collect()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode is not None


@pytest.mark.parametrize("data", ["memory", "workers", "threads"])
def test_what_is_set_after_a_kept_epoch_began_is_for_new_workers(data):
    """As with torch's kept workers, which have their collate function already."""
    seen = []
    more = {"worker_method": "thread"} if data == "threads" else {}
    for make, options in ((TORCH, {}), (OURS, more)):
        torch.manual_seed(1)
        loader = make(
            dataset_for(data),
            batch_size=5,
            shuffle=True,
            num_workers=2,
            persistent_workers=True,
            **options,
        )
        list(loader)
        loader.collate_fn = len
        seen.append([[each.tolist() for each in batch] for batch in loader])
        seen.append(torch.get_rng_state().tolist())
        close(loader)
    assert seen[:2] == seen[2:]


def test_the_number_of_workers_is_judged_by_the_loaders_own_method():
    """A subclass may override it; torch asks it at the beginning of an epoch too."""
    asked = []

    class Judges(fastload.DataLoader):
        def check_worker_number_rationality(self) -> None:
            asked.append(self.num_workers)

    loader = Judges(Numbers(), batch_size=5, num_workers=1)
    asked.clear()
    list(loader)
    assert asked == [1]
