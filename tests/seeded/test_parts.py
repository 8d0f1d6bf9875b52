"""A batch that several workers load together is the batch that one process loads."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, Dataset, IterableDataset, SequentialSampler

import fastload
from fastload.collate import Pack, Pad, PadDict, Ragged

from .datasets import EVERYTHING, Drawing, joined, states_of_the_program


class Sequences(Dataset[Any]):
    """Samples of unequal lengths, with a text and a number beside them."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = torch.arange(index % 7 + 1) + index + torch.randint(0, 5, ())
        return {"ids": ids, "text": f"sample {index}", "label": index}


class IdsOnly(Sequences):
    """Their sequences alone."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)["ids"]


def first_of_each(samples: list[Any]) -> list[Any]:
    """A collate function that keeps the samples themselves, and draws."""
    return [*samples, torch.rand(2), random.random(), np.random.rand(3)]


def batches(dataset: Any, **options: Any) -> list[Any]:
    with fastload.DataLoader(dataset, seed=5, shuffle=True, batch_size=8, **options) as loader:
        return list(loader)


def assert_same(one: Any, other: Any) -> None:
    """Equal values of equal types, at any depth."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        if one.is_nested:
            assert all(map(torch.equal, one.unbind(), other.unbind()))
        else:
            assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif hasattr(one, "__dict__") and vars(one):
        assert_same(vars(one), vars(other))
    else:
        assert one == other


COLLATES = {
    "default": (Drawing(53, EVERYTHING), None),
    "dict with texts": (Sequences(), PadDict()),
    "Pad": (IdsOnly(), Pad()),
    "Pack": (IdsOnly(), Pack()),
    "Ragged": (IdsOnly(), Ragged()),
    "a function that keeps the samples": (Sequences(), first_of_each),
}


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize(("dataset", "collate_fn"), COLLATES.values(), ids=COLLATES)
def test_parts_make_the_same_batches(dataset, collate_fn, workers):
    """Whatever collates, and whoever draws: the bytes are those of a loader without workers."""
    expected = batches(dataset, collate_fn=collate_fn)
    for parts in (2, workers, "auto"):
        options = {"num_workers": workers, "workers_per_batch": parts}
        assert_same(batches(dataset, collate_fn=collate_fn, **options), expected)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_parts_do_not_depend_on_how_workers_start(method):
    """Nor on whether they are kept: both epochs are the same bytes."""
    options = {"batch_size": 8, "shuffle": True}
    expected = joined(Drawing(53, EVERYTHING), **options)
    found = joined(
        Drawing(53, EVERYTHING),
        **options,
        num_workers=2,
        workers_per_batch=2,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    assert all(map(torch.equal, found, expected))


def test_the_programs_generators_stay_as_they_are():
    """Cutting batches draws nothing in the program."""
    before = states_of_the_program()
    batches(Drawing(40, EVERYTHING), num_workers=2, workers_per_batch=2)
    assert states_of_the_program() == before


class Failing(Dataset[Any]):
    """Indices 5, 12 and 13 can't be loaded."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> int:
        if index in (5, 12, 13):
            time.sleep(0.05 if index == 5 else 0)
            raise ValueError(f"no sample {index}")
        return index


def test_the_error_is_that_of_the_first_sample_that_fails():
    """Later parts may fail earlier; the error is the one that a single process raises."""
    loader = fastload.DataLoader(
        Failing(), batch_size=16, seed=1, num_workers=2, workers_per_batch=2
    )
    with pytest.raises(ValueError, match="no sample 5") as caught:
        list(loader)
    assert any("dataset index 5" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("on_error", ["skip", lambda _error, index: -index], ids=["skip", "call"])
def test_samples_that_fail_are_left_out_or_replaced_in_their_place(on_error):
    """As without workers, and ``stats()`` names them in their order."""

    def run(**options: Any) -> tuple[list[Any], list[Any]]:
        loader = fastload.DataLoader(Failing(), batch_size=8, seed=1, on_error=on_error, **options)
        return [batch.tolist() for batch in loader], [s.index for s in loader.stats().skipped]

    assert run(num_workers=2, workers_per_batch=2) == run()


class Unpicklable(Dataset[Any]):
    """Samples hold a lock, which collate leaves out."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        return index, threading.Lock()


def numbers_only(samples: list[Any]) -> torch.Tensor:
    return torch.tensor([index for index, _ in samples])


def test_samples_that_cannot_travel_are_loaded_by_one_worker():
    """The batch is loaded again as a whole, and the epoch goes on without parts."""
    found = batches(Unpicklable(), collate_fn=numbers_only, num_workers=2, workers_per_batch=2)
    assert_same(found, batches(Unpicklable(), collate_fn=numbers_only))


def test_parts_that_do_not_fit_are_loaded_by_one_worker():
    """With next to no shared memory all batches come by pipe, and are the same."""
    large = [torch.full((50_000,), float(index)) for index in range(24)]
    found = batches(large, num_workers=2, workers_per_batch=2, memory_limit=1 << 20)
    assert_same(found, batches(large))


class Items(IterableDataset[Any]):
    """Yields items, of which ``load`` makes samples."""

    def __iter__(self) -> Any:
        return iter(range(40))

    def load(self, item: int) -> torch.Tensor:
        return torch.tensor([item, torch.rand(()).item()])


def test_items_of_a_stream_are_loaded_in_parts():
    """A stream with ``load(item)`` gives batches that can be cut."""
    options: dict[str, Any] = {"batch_size": 8, "seed": 3}
    expected = list(fastload.DataLoader(Items(), **options))
    found = list(fastload.DataLoader(Items(), **options, num_workers=3, workers_per_batch=3))
    assert_same(found, expected)


def test_batches_of_a_batch_sampler_are_cut():
    """Also those of one sample, which have one part."""
    sampler = BatchSampler(SequentialSampler(range(25)), 6, drop_last=False)
    options: dict[str, Any] = {"batch_sampler": sampler, "seed": 3}
    expected = list(fastload.DataLoader(Drawing(25), **options))
    found = list(fastload.DataLoader(Drawing(25), **options, num_workers=2, workers_per_batch=2))
    assert_same(found, expected)


class Deadly(Drawing):
    """Kills its worker once for each file name, when a certain sample is loaded."""

    def __init__(self, folder: Path, indices: tuple[int, ...]) -> None:
        super().__init__(48, EVERYTHING)
        self.folder = folder
        self.indices = indices

    def __getitem__(self, index: int) -> torch.Tensor:
        if index in self.indices:
            try:
                (self.folder / str(index)).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_workers_killed_in_their_parts_lose_nothing(parts, tmp_path):
    """What a dead worker had taken is loaded by the one that takes its place."""
    expected = batches(Drawing(48, EVERYTHING))
    with pytest.warns(RuntimeWarning, match="was started again"):
        found = batches(
            Deadly(tmp_path, (0, 9, 17, 33)),
            num_workers=3,
            workers_per_batch=parts,
            max_worker_restarts=4,
        )
    assert_same(found, expected)


class KillingCollate:
    """Kills the worker that collates the second batch, once."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "killed"
        self.calls = 0

    def __call__(self, samples: list[Any]) -> torch.Tensor:
        if samples[0][0] > 20 and not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.stack(samples)


def test_a_worker_killed_while_it_collates_the_parts_loses_nothing(tmp_path):
    """Another worker finds all parts and collates them."""
    expected = batches(Drawing(48, EVERYTHING), collate_fn=torch.stack)
    with pytest.warns(RuntimeWarning, match="was started again"):
        found = batches(
            Drawing(48, EVERYTHING),
            collate_fn=KillingCollate(tmp_path),
            num_workers=2,
            workers_per_batch=2,
            max_worker_restarts=1,
        )
    assert_same(found, expected)


def test_random_deaths_lose_nothing():
    """Workers are killed from outside at random moments, and each batch comes once."""

    class Slow(Drawing):
        def __getitem__(self, index: int) -> torch.Tensor:
            time.sleep(0.002)
            return super().__getitem__(index)

    expected = batches(Drawing(160, EVERYTHING))
    loader = fastload.DataLoader(
        Slow(160, EVERYTHING),
        batch_size=8,
        shuffle=True,
        seed=5,
        num_workers=3,
        workers_per_batch=3,
        max_worker_restarts=100,
    )
    with pytest.warns(RuntimeWarning, match="was started again"):
        found = list(killing_at_random(iter(loader)))
    assert_same(found, expected)


def killing_at_random(iterator: Any) -> Iterator[Any]:
    """The batches of an iterator, some of whose workers are killed meanwhile."""
    chance = random.Random(0)
    for batch in iterator:
        yield batch
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.01)
            os.kill(chance.choice(iterator._workers).pid, signal.SIGKILL)


def test_a_part_that_hangs_is_named():
    """The error of a timeout says which worker has the batch, and shows where it is."""

    class Hanging(Drawing):
        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 3:
                time.sleep(60)
            return super().__getitem__(index)

    loader = fastload.DataLoader(
        Hanging(16), batch_size=8, seed=1, num_workers=2, workers_per_batch=2, timeout=2
    )
    with pytest.raises(fastload.LoadingTimeout, match=r"has taken batch 0(.|\n)*__getitem__"):
        list(loader)


def test_iterators_that_are_dropped_leave_their_slots_to_others():
    """Epochs that nobody finishes, on kept workers, and one that is finished."""
    loader = fastload.DataLoader(
        Drawing(400, EVERYTHING),
        batch_size=8,
        seed=2,
        num_workers=2,
        workers_per_batch=2,
        persistent_workers=True,
    )
    with loader:
        for _ in range(20):
            iterator = iter(loader)
            next(iterator)
        del iterator
        loader.set_epoch(0)
        found = list(loader)
    expected = list(fastload.DataLoader(Drawing(400, EVERYTHING), batch_size=8, seed=2))
    assert_same(found, expected)


class Numbers(IterableDataset[int]):
    """A stream without ``load``."""

    def __iter__(self) -> Any:
        return iter(range(4))


WRONG = {
    "without a seed": ({"seed": None}, "needs seed="),
    "with fewer workers": ({"num_workers": 1}, "num_workers=1"),
    "without batches": ({"batch_size": None}, "batch_size=None"),
    "zero": ({"workers_per_batch": 0}, "workers_per_batch"),
    "a stream": ({"dataset": Numbers()}, "needs a map-style dataset"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_cut_is_refused(changes, said):
    """With both values in the error; "auto" is never an error."""
    options = {"dataset": Drawing(8), "seed": 1, "num_workers": 2, "workers_per_batch": 2}
    with pytest.raises(ValueError, match=said):
        fastload.DataLoader(**{**options, **changes})
    fastload.DataLoader(**{**options, **changes, "workers_per_batch": "auto"})


def test_the_option_survives_copies():
    """``replace`` keeps it."""
    loader = fastload.DataLoader(Drawing(8), seed=1, num_workers=2, workers_per_batch=2)
    assert loader.replace(batch_size=4).workers_per_batch == 2
