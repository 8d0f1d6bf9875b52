"""The ranks on one machine share its cores and its memory."""

from __future__ import annotations

import pytest

from fastload import DataLoader
from fastload._system.cores import find_cores
from fastload._system.memory_limits import default_limit_bytes


@pytest.fixture
def four_ranks(monkeypatch):
    """As torchrun says it to each of four."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")


def test_ranks_share_the_memory(monkeypatch) -> None:
    """A pool's limit is a fourth of what it is without the others."""
    alone = default_limit_bytes()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_limit_bytes() == pytest.approx(alone / 4, rel=0.2)  # others use the machine


def test_ranks_share_the_cores_that_auto_chooses_from(four_ranks) -> None:
    """The number of workers to begin with is for this rank's cores."""
    assert find_cores().ranks == 4
    workers = DataLoader(range(8), num_workers="auto").num_workers
    assert workers == max(1, round(find_cores().usable))


@pytest.mark.parametrize("value", ["", "two", "0", "-1"])
def test_number_of_ranks_that_is_none_means_one(monkeypatch, value) -> None:
    """What somebody else meant by the variable is no reason to fail."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", value)
    assert find_cores().ranks == 1
