"""Composer, Ray Train, timm, detectron2 and DeepSpeed find in our loader what they need."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.utils.data
from torch.utils.data import DistributedSampler

from fastload import DataLoader

from . import shims
from .data import BATCH, LENGTH, Numbers, rows

TORCH = torch.utils.data.DataLoader
PERSISTENT = {"num_workers": 2, "persistent_workers": True}


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, PERSISTENT], ids=str)
def test_composer_trains_spins_and_closes(options) -> None:
    """Its checks pass before training, its early breaks are cheap, its close ends workers."""
    sampler = DistributedSampler(Numbers(), num_replicas=2, rank=0)
    with DataLoader(Numbers(), batch_size=BATCH, sampler=sampler, **options) as loader:
        shims.composer_check(loader, world_size=2)
        shims.composer_spin(loader, 3)
        assert len(rows(loader)) == 3
        iterator = loader._iterator
        workers = [] if iterator is None else list(iterator._workers)
        shims.composer_close(loader)
        shims.composer_close(loader)
        for worker in workers:
            worker.join(60)
            assert worker.exitcode is not None


def test_composer_refuses_what_is_not_distributed() -> None:
    """As with torch's loader."""
    with pytest.raises(ValueError, match="distributed sampler"):
        shims.composer_check(DataLoader(Numbers()), world_size=2)


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"num_workers": 1}], ids=str)
def test_ray_makes_the_loader_of_each_rank_from_attributes(options) -> None:
    """The same as it makes of torch's; our collate function works in torch's loader."""
    loader = DataLoader(Numbers(), batch_size=BATCH, **options)
    reference = TORCH(Numbers(), batch_size=BATCH, **options)
    for rank in (0, 1):
        assert rows(shims.ray_prepare(loader, rank, 2)) == rows(
            shims.ray_prepare(reference, rank, 2)
        )


def test_ray_leaves_a_loader_with_a_distributed_sampler_as_it_is() -> None:
    """So ours stays ours if it is given one."""
    sampler = DistributedSampler(Numbers(), num_replicas=2, rank=1)
    loader = DataLoader(Numbers(), batch_size=BATCH, sampler=sampler)
    assert shims.ray_prepare(loader, 1, 2) is loader


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, PERSISTENT], ids=str)
def test_rays_wrapper_shares_the_loaders_attributes(options) -> None:
    """It copies `__dict__`, holds two batches, and may go before the loader or after it."""
    loader = DataLoader(Numbers(), batch_size=BATCH, **options)
    wrapped = shims.RayWrapped(loader)
    expected = [list(range(k, min(k + BATCH, LENGTH))) for k in range(0, LENGTH, BATCH)]
    assert len(wrapped) == len(expected)
    assert [rows(wrapped), rows(wrapped)] == [expected, expected]
    del wrapped
    assert rows(loader) == expected
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_timms_loader_for_many_epochs_works_on_ours(workers) -> None:
    """It replaces the batch sampler behind the guard and keeps one iterator for ever."""
    epochs = []
    for loader_class in (TORCH, DataLoader):
        torch.manual_seed(2)
        loader = shims.timm_multi_epochs(loader_class)(
            Numbers(), batch_size=BATCH, shuffle=True, num_workers=workers
        )
        assert len(loader) == 6
        epochs.append([rows(loader) for _ in range(3)])
        if workers:
            loader.iterator._shutdown_workers()
    assert epochs[0] == epochs[1]


def test_timms_prefetcher_reads_through_to_our_loader() -> None:
    """Batches stay whole while the next one is fetched."""
    images = torch.arange(LENGTH * 12, dtype=torch.uint8).view(LENGTH, 3, 2, 2)
    dataset = torch.utils.data.TensorDataset(images, torch.arange(LENGTH))
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=2)
    prefetched = shims.TimmPrefetch(loader)
    assert prefetched.dataset is dataset
    assert prefetched.sampler is loader.sampler
    assert len(prefetched) == 6
    got = list(prefetched)
    assert torch.equal(torch.cat([x for x, _ in got]), images.float().div(255))
    assert torch.equal(torch.cat([y for _, y in got]), torch.arange(LENGTH))


class Records(torch.utils.data.Dataset):
    """Dicts that are not collated."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index):
        return {"image": torch.full((3, 4 + index % 2), index), "id": index}


def keep(samples):
    return samples


@pytest.mark.parametrize("workers", [0, 2])
def test_detectron2_reads_endless_samplers(workers) -> None:
    """Batches are lists of dicts; the loader is left in the middle."""
    taken = []
    for loader_class in (TORCH, DataLoader):
        loader = loader_class(
            Records(),
            batch_size=3,
            sampler=shims.Endless(LENGTH),
            num_workers=workers,
            collate_fn=keep,
        )
        batches = itertools.islice(loader, 15)
        taken.append([[record["id"] for record in batch] for batch in batches])
    assert taken[0] == taken[1]
    assert len(taken[0]) == 15


@pytest.mark.parametrize("workers", [0, 2])
def test_detectron2_groups_single_samples_of_a_stream(workers) -> None:
    """`batch_sampler=None`, `batch_size=1` and a collate function that takes the list apart."""
    taken = []
    for loader_class in (TORCH, DataLoader):
        loader = shims.detectron2_grouped(loader_class, Records(), shims.Endless(LENGTH), workers)
        taken.append([record["id"] for record in itertools.islice(loader, 30)])
    assert taken[0] == taken[1]


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, PERSISTENT], ids=str)
def test_deepspeeds_repeating_loader_goes_round(options) -> None:
    """After StopIteration the next `iter()` begins a new epoch."""
    with DataLoader(Numbers(), batch_size=BATCH, **options) as loader:
        endless = shims.RepeatingLoader(loader)
        batches = [next(endless).tolist() for _ in range(15)]
        assert batches == (3 * rows(loader))[:15]


def test_deepspeed_constructs_ours_under_torchs_name() -> None:
    """`collate_fn=None` and a sampler, as it always passes them."""
    drawn = []
    for loader_class in (TORCH, DataLoader):
        torch.manual_seed(6)
        drawn.append(rows(shims.deepspeed_loader(loader_class, Numbers(), 5)))
    assert drawn[0] == drawn[1]
