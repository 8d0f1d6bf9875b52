"""Samples that are kept on disk: each is loaded once, whoever asks, and comes back as it was."""

from __future__ import annotations

import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import fastload
from fastload import Cached
from fastload.sources.sample_store import SampleStore
from tests.contract.same import assert_same


class Logged(Dataset[Any]):
    """Writes a line into a file for each sample that it loads."""

    def __init__(self, log: Path, length: int = 40, pause_s: float = 0.0) -> None:
        self.log, self.length, self.pause_s = log, length, pause_s

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self.log.open("a") as log:
            log.write(f"{index}\n")
        time.sleep(self.pause_s)
        return {
            "x": torch.full((3, 4), float(index)),
            "n": np.arange(index % 5 + 1),
            "t": str(index),
        }


def loads(log: Path) -> list[int]:
    return sorted(map(int, log.read_text().split())) if log.exists() else []


def as_lists(loader: Any) -> list[Any]:
    return [(batch["x"].tolist(), batch["t"]) for batch in loader]


def first(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"x": torch.stack([each["x"] for each in samples]), "t": [each["t"] for each in samples]}


SAMPLES = {
    "numbers": (1, 2.5, True, None, "text", b"bytes"),
    "tensors": [torch.arange(6).view(2, 3), torch.ones(2, dtype=torch.bfloat16), torch.tensor(3)],
    "views": [torch.arange(1_000)[3:5], torch.arange(6).view(2, 3).t()],
    "empty": torch.empty(0, 3),
    "gradients": torch.ones(2, requires_grad=True),
    "bools": torch.tensor([True, False]),
    "complex": torch.ones(2, dtype=torch.complex64),
    "arrays": {"a": np.arange(5), "b": np.float32(2), "c": np.array(["x"])},
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    cached = Cached([SAMPLES[name]], tmp_path / "c", key=1)
    assert_same(cached[0], SAMPLES[name])
    assert_same(cached[0], SAMPLES[name])
    assert_same(cached[-1], SAMPLES[name])
    assert_same(Cached([None], tmp_path / "c", key=1)[0], SAMPLES[name])


def test_what_is_read_may_be_changed(tmp_path: Path) -> None:
    cached = Cached([torch.zeros(3)], tmp_path / "c", key=1)
    for _ in range(3):
        cached[0].clone()
    cached[0].add_(1)
    assert cached[0].tolist() == [0, 0, 0]


def test_only_the_elements_of_a_view_are_kept(tmp_path: Path) -> None:
    cached = Cached([torch.zeros(1_000_000)[:4]], tmp_path / "c", key=1)
    cached[0]
    assert (tmp_path / "c" / "data-1").stat().st_size < 1_000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_workers": 3},
        {"num_workers": 2, "multiprocessing_context": "spawn"},
        {"num_workers": 3, "worker_method": "thread"},
        {"num_workers": 2, "seed": 3},
    ],
    ids=str,
)
def test_each_sample_is_loaded_once(options: dict[str, Any], tmp_path: Path) -> None:
    cached = Cached(Logged(tmp_path / "log"), tmp_path / "c", key="v1")
    loader = fastload.DataLoader(cached, batch_size=7, collate_fn=first, **options)
    epochs = [as_lists(loader), as_lists(loader)]
    assert epochs[0] == epochs[1]
    assert loads(tmp_path / "log") == list(range(40))
    plain = fastload.DataLoader(Logged(tmp_path / "other"), batch_size=7, collate_fn=first)
    assert epochs[0] == as_lists(plain)


FILL = """
import sys
from pathlib import Path
from fastload import Cached
from tests.sources.test_cached import Logged
folder = Path(sys.argv[1])
cached = Cached(Logged(folder / "log", 40, 0.005), folder / "c", key="v1")
for index in range(40):
    assert cached[index]["t"] == str(index)
"""


def filler(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FILL, str(folder)])


def test_processes_that_fill_it_at_a_time_share_the_work(tmp_path: Path) -> None:
    others = [filler(tmp_path) for _ in range(3)]
    assert [each.wait(100) for each in others] == [0, 0, 0]
    assert loads(tmp_path / "log") == list(range(40))


def test_after_a_kill_the_rest_is_loaded(tmp_path: Path) -> None:
    killed = filler(tmp_path)
    while len(loads(tmp_path / "log")) < 10:
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert filler(tmp_path).wait(100) == 0
    found = loads(tmp_path / "log")
    assert sorted(set(found)) == list(range(40))
    assert len(found) <= 41  # the one that was being loaded


def test_another_key_or_length_is_refused_with_both_values(tmp_path: Path) -> None:
    Cached([1, 2], tmp_path / "c", key={"size": 3})
    with pytest.raises(ValueError, match=r"\{'size': 3\}.*\{'size': 4\}"):
        Cached([1, 2], tmp_path / "c", key={"size": 4})
    with pytest.raises(ValueError, match=r"length 2.*length 3"):
        Cached([1, 2, 3], tmp_path / "c", key={"size": 3})
    with pytest.raises(ValueError, match="JSON"):
        Cached([1], tmp_path / "d", key=object())
    assert Cached([1, 2], tmp_path / "c", key={"size": 3})[1] == 2


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="other files"):
        Cached([1], tmp_path, key=1)


class Draws(Dataset[Any]):
    def __init__(self, kind: str) -> None:
        self.kind, self.own = kind, np.random.default_rng(0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> float:
        if self.kind == "python":
            return random.random()
        if self.kind == "numpy":
            return float(np.random.rand())
        if self.kind == "torch":
            return float(torch.rand(()))
        return float(self.own.random())


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("kind", "words"),
    [("python", "random"), ("numpy", "numpy"), ("torch", "torch"), ("own", "dataset.own")],
)
def test_a_dataset_that_draws_is_refused(
    kind: str, words: str, num_workers: int, tmp_path: Path
) -> None:
    cached = Cached(Draws(kind), tmp_path / "c", key=1)
    with pytest.raises(ValueError, match=f"Draws drew from .*{words}.*every epoch"):
        list(fastload.DataLoader(cached, num_workers=num_workers))
    assert SampleStore(tmp_path / "c", 4).get(0) is None


def test_draws_of_the_training_loop_beside_threads_are_not_the_datasets(tmp_path: Path) -> None:
    cached = Cached(Logged(tmp_path / "log", 40, 0.002), tmp_path / "c", key=1)
    loader = fastload.DataLoader(
        cached, batch_size=2, num_workers=2, worker_method="thread", collate_fn=first
    )
    for _ in loader:
        torch.rand(1)
    assert loads(tmp_path / "log") == list(range(40))


def test_a_sample_that_fails_is_not_kept(tmp_path: Path) -> None:
    values: dict[int, Any] = {1: 5}
    cached = Cached(values, tmp_path / "c", key=1)
    values[0] = lambda: None
    cached._length = 2
    with pytest.raises((pickle.PicklingError, AttributeError)):
        cached[0]
    values[0] = 7
    assert [cached[0], cached[1]] == [7, 5]


def test_damage_is_an_error(tmp_path: Path) -> None:
    cached = Cached([b"x" * 100, b"y" * 100], tmp_path / "c", key=1)
    cached[0], cached[1]
    for name, at in (("data-1", 50), ("index", 3)):
        content = bytearray((tmp_path / "c" / name).read_bytes())
        content[at] ^= 4
        (tmp_path / "c" / name).write_bytes(content)
        with pytest.raises(fastload.CorruptDataError, match=f"{name} is damaged: sample 0"):
            Cached([1, 2], tmp_path / "c", key=1)[0]
        content[at] ^= 4
        (tmp_path / "c" / name).write_bytes(content)
    os.truncate(tmp_path / "c" / "data-1", 130)
    again = Cached([1, 2], tmp_path / "c", key=1)
    assert again[0] == b"x" * 100
    with pytest.raises(fastload.CorruptDataError, match="sample 1"):
        again[1]


def test_a_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = Cached([b"x" * 100, b"y"], tmp_path / "c", key=1)
    plain = os.pwrite

    def full(descriptor: int, content: Any, offset: int) -> int:
        if offset >= 40 or len(content) <= 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(descriptor, content[:40], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=r"No space left.*Make room there") as caught:
            cached[0]
        assert caught.value.errno == errno.ENOSPC
    assert [cached[0], cached[1], cached[0]] == [b"x" * 100, b"y", b"x" * 100]


def test_indices_out_of_range(tmp_path: Path) -> None:
    cached = Cached([1, 2], tmp_path / "c", key=1)
    for index in (2, -3):
        with pytest.raises(IndexError):
            cached[index]
    with pytest.raises(TypeError):
        cached["a"]  # type: ignore[index]
