"""Distributed training in two processes (gloo): shards are torch's, class and options ours."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
LIMIT_S = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_in_two_processes(name: str, package: str = "", arguments: tuple = ()) -> list[dict]:
    """What each rank printed last, as torchrun would start them."""
    if importlib.util.find_spec(package or name.removeprefix("two_")) is None:
        pytest.skip("not installed")
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        ended = [rank.communicate(timeout=LIMIT_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for rank, (_, errors) in zip(ranks, ended, strict=True):
        assert rank.returncode == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in ended]


def test_accelerate_shards_our_loader_as_torchs() -> None:
    """Maps, streams and samplers of batches; evened out, gathered, skipped and resumed alike."""
    ranks = run_in_two_processes("two_accelerate")
    for rank in ranks:
        assert rank["world"] == 2
        assert rank["differ"] == []
        assert rank["class"] == "fastload.dataloader"
        assert rank["memory_limit"] == 1 << 20
        assert rank["resumes"]
    assert ranks[0]["in order"] == [[0, 1], [4, 5], [8, 9]]
    assert ranks[1]["in order"] == [[2, 3], [6, 7], [10, 0]]


def test_lightning_and_fabric_give_our_loader_a_distributed_sampler() -> None:
    """Class and options are kept; losses are those with torch's loader."""
    ranks = run_in_two_processes("two_lightning")
    for rank in ranks:
        assert rank["same"]
        assert rank["is_distributed"]
        assert rank["class"] == rank["fabric class"] == "fastload.dataloader"
        assert rank["memory_limit"] == rank["fabric memory_limit"] == 1 << 20
    assert ranks[0]["losses"] != ranks[1]["losses"]
    assert ranks[0]["fabric rows"] == [[0, 2], [4, 6], [8]]
    assert ranks[1]["fabric rows"] == [[1, 3], [5, 7], [9]]


def test_accelerate_passes_a_seeded_stream_on() -> None:
    """Neither sharded again nor given a generator; metrics leave out what fills the last step."""
    ranks = run_in_two_processes("two_seeded", "accelerate")
    assert ranks[0] == ranks[1]
    for name, found in ranks[0].items():
        assert sorted(found["gathered"]) == list(range(11)), name
        assert found["epochs"][0] == found["alone"][0], name
        assert found["epochs"][1] == found["alone"][1], name
        assert found["resumed"] == found["alone"], name
        step = 2 * (3 if name == "workers" else 2)
        assert found["skipped"] == found["alone"][1][step:], name
