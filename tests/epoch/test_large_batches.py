"""Of large batches the one in the training loop counts as on its way: fewer slots are used."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

import fastload
from fastload._memory import slots as slots_module
from tests.start_methods import METHODS

SIZE_BYTES = 1 << 16


class Large(Dataset):
    """Samples of one size, each of its own number."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((SIZE_BYTES,), index, dtype=torch.uint8)


@pytest.fixture
def all_are_large(monkeypatch):
    monkeypatch.setattr(slots_module, "LARGE_BYTES", SIZE_BYTES)


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 2},
        {"num_workers": 2, "in_order": False},
        {"num_workers": 1, "prefetch_factor": 1},
        {"num_workers": 3, "prefetch_factor": 1},
        {"num_workers": 2, "seed": 0},
        {"num_workers": 2, "seed": 0, "workers_per_batch": 2, "batch_size": 2},
        {"num_workers": 2, "memory_limit": SIZE_BYTES},
    ],
)
def test_every_batch_comes_once_epoch_after_epoch(options):
    """Nothing waits for a batch that the training loop has, or holds many of."""
    loader = fastload.DataLoader(Large(), persistent_workers=True, **options)
    held = []
    for _ in range(3):
        seen = []
        for batch in loader:
            seen += batch[:, 0].tolist()
            held = [*held[-5:], batch]
        assert sorted(seen) == list(range(30))
        if loader.in_order:
            assert seen == list(range(30))
    loader.close()


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("method", METHODS)
def test_as_many_slots_are_used_as_batches_may_be_on_their_way(method):
    """Beyond them only one, for the first round, in which nobody knows how large batches are."""
    loader = fastload.DataLoader(
        Large(), num_workers=2, persistent_workers=True, multiprocessing_context=method
    )
    for _ in range(2):
        for batch in loader:
            assert batch.shape == (1, SIZE_BYTES)
    del batch
    pool = loader._iterator._pool
    used = pool.slots.arena.slots - pool.slots.statistics().fresh
    assert used <= 2 * 2 + 1
    loader.close()
