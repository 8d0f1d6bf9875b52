"""Which process of how many: what was given, torch.distributed, the environment, or alone."""

from __future__ import annotations

import pytest
import torch.distributed

from fastload.samplers import shard


@pytest.fixture(autouse=True)
def no_job(monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def found() -> tuple[int, int]:
    sampler = shard(range(9))
    return sampler.rank, sampler.num_replicas


def test_outside_a_job_there_is_one_process() -> None:
    """So the same program runs alone."""
    assert found() == (0, 1)


def test_the_environment_says_it(monkeypatch) -> None:
    """As torchrun sets it."""
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert found() == (2, 3)
    assert list(shard(range(9))) == [2, 5, 8]


def test_arguments_go_before_the_environment(monkeypatch) -> None:
    """Both of them."""
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert shard(range(9), 0, 2).rank == 0


@pytest.mark.parametrize(
    ("rank", "world_size", "words"),
    [
        ("1", None, "belong together, but got rank=1 and world_size=None"),
        ("one", "2", "RANK='one' and WORLD_SIZE='2', which are no integers"),
        ("5", "2", "rank must be below world_size"),
    ],
)
def test_a_wrong_environment_is_refused(monkeypatch, rank, world_size, words: str) -> None:
    """Not taken for one process."""
    monkeypatch.setenv("RANK", rank)
    if world_size is not None:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    with pytest.raises(ValueError, match=words):
        shard(range(9))


def test_torch_distributed_goes_before_the_environment(monkeypatch, tmp_path) -> None:
    """A process group that was made knows best."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert found() == (0, 1)
    finally:
        torch.distributed.destroy_process_group()
