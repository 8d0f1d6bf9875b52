"""``memory_limit`` is a number of bytes, whatever the sizes of batches and how many are ahead."""

from __future__ import annotations

import os
import re
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.data import Dataset

import fastload

SIZES_BYTES = [1 << 16, 8 << 20, 6 << 20, 8 << 20, 1 << 20, 8 << 20] * 4
LARGEST_BYTES = max(SIZES_BYTES)
HELD = 6


class OfManySizes(Dataset):
    """Sample ``k`` is full of ``k``; the samples take from 64 KiB to 8 MiB."""

    def __len__(self) -> int:
        return len(SIZES_BYTES)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((SIZES_BYTES[index],), index, dtype=torch.uint8)


def shared_bytes() -> int:
    """Memory in all arenas, by the shares that this process and its workers have of it."""
    total_kib = 0
    for process in (psutil.Process(), *psutil.Process().children()):
        try:
            maps = Path(f"/proc/{process.pid}/smaps").read_text()
        except OSError:  # a worker that has just left
            continue
        total_kib += sum(map(int, re.findall(r"memfd:fastload.*?Pss:\s+(\d+) kB", maps, re.DOTALL)))
    return total_kib << 10


def peak_bytes(memory_limit: int) -> int:
    """The most shared memory seen in an epoch; every batch is right, also after it was held."""
    loader = fastload.DataLoader(
        OfManySizes(), batch_size=None, num_workers=2, prefetch_factor=1, memory_limit=memory_limit
    )
    peak, held = 0, []
    for number, batch in enumerate(loader):
        assert (batch.numel(), int(batch[0]), int(batch[-1])) == (
            SIZES_BYTES[number],
            number,
            number,
        )
        peak = max(peak, shared_bytes())
        held.append(batch)
        if len(held) > HELD:
            assert (held.pop(0) == number - HELD).all()
    assert number == len(SIZES_BYTES) - 1
    return peak


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd")
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="counts in /proc")
def test_batches_of_any_size_stay_within_the_limit() -> None:
    """Where all fit into slots, and where large ones do not; without it they would take more."""
    all_fit, some_fit = 5 * LARGEST_BYTES + (1 << 20), 3 * LARGEST_BYTES
    assert peak_bytes(all_fit) <= all_fit + LARGEST_BYTES
    assert peak_bytes(some_fit) <= some_fit + LARGEST_BYTES
    assert peak_bytes(1 << 30) > all_fit + LARGEST_BYTES
