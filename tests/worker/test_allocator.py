"""A worker's allocator keeps freed memory for the next batch."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest
import torch

import fastload

BATCHES = 40


class Spacious(torch.utils.data.Dataset):
    """Sample ``i`` is the page faults of its worker so far; 8 MiB are used and freed for it."""

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: int) -> int:
        blocks = [bytearray(200_000) for _ in range(42)]
        del blocks
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def faults() -> int:
    """From the middle of an epoch to its end."""
    counted = [int(batch) for batch in fastload.DataLoader(Spacious(), num_workers=1)]
    return counted[-1] - counted[BATCHES // 2]


def test_memory_that_was_freed_is_not_faulted_in_again() -> None:
    """Each sample uses 2,000 pages; they are the same ones."""
    assert faults() < BATCHES


@pytest.mark.parametrize(
    "setting",
    [
        {"MALLOC_MMAP_THRESHOLD_": "65536"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_a_setting_of_the_users_is_left_alone(setting: dict[str, str]) -> None:
    """Blocks of that size are given back at once, as the user wants it."""
    command = [
        sys.executable,
        "-c",
        "from tests.worker import test_allocator as t;print(t.faults())",
    ]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **setting},
    )
    assert int(done.stdout) > 100 * BATCHES
