"""Small batches of data in memory: asked for workers, all is as with torch's loader."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

import fastload
from fastload._epoch.in_memory import LARGEST_BATCH_BYTES, InMemoryIterator

LENGTH = 1000


def table(width: int = 4) -> TensorDataset:
    return TensorDataset(torch.randn(LENGTH, width), torch.arange(LENGTH))


class Failing(RandomSampler):
    """Raises in the middle."""

    def __iter__(self):
        yield from range(70)
        raise KeyError("sampler")


def history(loader_class, dataset, **options) -> list[torch.Tensor]:
    """Every tensor of two epochs, and the random state on the way and after them."""
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(1) if options.pop("generator", False) else None
    loader = loader_class(dataset, batch_size=32, num_workers=2, generator=generator, **options)
    seen = []
    for _ in range(2):
        for number, batch in enumerate(loader):
            seen += batch
            if number == 3:
                seen.append(torch.get_rng_state())
                seen += [] if generator is None else [generator.get_state()]
    return [*seen, torch.get_rng_state()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": True},
        {"shuffle": True, "generator": True},
        {"shuffle": True, "persistent_workers": True, "generator": True},
        {"shuffle": True, "drop_last": True, "prefetch_factor": 5},
        {"sampler": RandomSampler(range(LENGTH), replacement=True), "generator": True},
    ],
)
def test_order_and_random_state_are_those_of_workers(options):
    """Also in the middle of an epoch: as many batches of indices are drawn ahead."""
    dataset = table()
    ours = history(fastload.DataLoader, dataset, **options)
    torchs = history(DataLoader, dataset, **options)
    assert len(ours) == len(torchs)
    assert all(map(torch.equal, ours, torchs))


def test_no_process_is_started():
    """Whatever ``num_workers`` says."""
    iterator = iter(fastload.DataLoader(table(), batch_size=32, num_workers=2))
    next(iterator)
    assert isinstance(iterator, InMemoryIterator)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "options",
    [
        {"worker_init_fn": print},
        {"collate_fn": list},
        {"batch_size": LARGEST_BATCH_BYTES // 16},
        {"dataset": Subset(list(range(100)), range(50))},
    ],
)
def test_workers_work_where_they_may_be_seen_or_needed(options):
    """Code of the user's, large batches and other datasets go to workers."""
    options = {"dataset": table(), "batch_size": 32, **options}
    loader = fastload.DataLoader(num_workers=1, **options)
    assert not isinstance(iter(loader), InMemoryIterator)


def test_files_in_memory_maps_are_left_to_workers(tmp_path):
    """Reading them may take long."""
    np.save(tmp_path / "rows.npy", np.zeros((100, 4), np.float32))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    loader = fastload.DataLoader(fastload.ArrayDataset(rows), batch_size=8, num_workers=1)
    assert not isinstance(iter(loader), InMemoryIterator)


def test_error_of_the_sampler_comes_in_its_place():
    """The batches before it are delivered."""
    loader = fastload.DataLoader(
        table(), batch_size=32, num_workers=2, sampler=Failing(range(LENGTH))
    )
    seen = []
    with pytest.raises(KeyError, match="sampler"):
        for batch in loader:
            seen.append(len(batch[0]))
    assert seen == [32, 32]


def test_epoch_goes_on_from_a_state_with_real_workers_and_back():
    """A state says nothing of who gathers."""
    dataset = table()
    options = {"batch_size": 32, "shuffle": True, "num_workers": 2}
    torch.manual_seed(5)
    loader = fastload.DataLoader(dataset, **options)
    iterator = iter(loader)
    for _ in range(7):
        next(iterator)
    state = loader.state_dict()
    rest = [batch[1].tolist() for batch in iterator]
    for more in ({"worker_init_fn": id}, {}):
        other = fastload.DataLoader(dataset, **options, **more)
        other.load_state_dict(state)
        assert [batch[1].tolist() for batch in other] == rest
