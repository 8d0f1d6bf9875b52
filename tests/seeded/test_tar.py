"""``TarStream`` in a seeded stream: woven from canonical shards."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import fastload
from fastload.datasets import TarStream
from fastload.datasets.tar_files import GzipSource, PlainSource
from fastload.datasets.tar_index import build_index, write_index
from tests.datasets.shards import write_shards

COUNTS = (31, 5, 0, 64, 17, 40)
SAMPLES = sum(COUNTS)


@pytest.fixture(scope="module", params=["tar", "tar.gz"])
def shards(request, tmp_path_factory):
    """Shards of different length, with indices."""
    paths = write_shards(tmp_path_factory.mktemp("data"), COUNTS, suffix=request.param)
    for path in paths:
        write_index(path, build_index(path, checksums=True))
    return paths


def make_stream(shards, **options):
    """A stream whose shards take short turns."""
    usual = {"shuffle": True, "buffer_samples": 24, "canonical_shards": 3, "turn_samples": 8}
    return TarStream(shards, **{**usual, "fields": ["cls", "txt"], **options})


def joined(shards, *, batch_size=16, ranks=1, epochs=2, stream=None, **options):
    """The numbers and texts of the samples of each epoch, of all ranks in order."""
    parts = []
    for rank in range(ranks):
        with fastload.DataLoader(
            make_stream(shards, **(stream or {})),
            batch_size=batch_size,
            seed=7,
            num_replicas=ranks,
            rank=rank,
            even="none",
            **options,
        ) as loader:
            assert len(loader) == len(list(loader))
            loader.set_epoch(0)
            parts.append(
                [
                    [list(zip(number.tolist(), text, strict=True)) for number, text in loader]
                    for _ in range(epochs)
                ]
            )
    return [
        [row for step in itertools.zip_longest(*epoch) for batch in step if batch for row in batch]
        for epoch in zip(*parts, strict=True)
    ]


SETTINGS = {
    "one worker": {"num_workers": 1},
    "two workers": {"num_workers": 2},
    "three workers": {"num_workers": 3},
    "another batch size": {"batch_size": 21},
    "two ranks": {"ranks": 2, "num_workers": 2},
    "three ranks": {"ranks": 3, "batch_size": 10},
    "kept workers": {"num_workers": 2, "persistent_workers": True},
    "forkserver": {"num_workers": 1, "multiprocessing_context": "forkserver"},
    "threads": {"num_workers": 2, "worker_method": "thread"},
    "without an index": {"stream": {"index": "ignore"}, "num_workers": 1},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_samples_are_the_same_in_every_setting(shards, setting):
    """The order follows from the stream's seed and the epoch; each sample comes once."""
    expected = joined(shards)
    assert joined(shards, **setting) == expected
    assert sorted(expected[0]) == [(number, f"text {number}") for number in range(SAMPLES)]
    assert expected[0] != expected[1]


def test_the_order_of_plain_and_packed_shards_is_the_same(tmp_path):
    """It follows from numbers of samples alone."""
    both = []
    for suffix in ("tar", "tar.gz"):
        folder = tmp_path / suffix
        folder.mkdir()
        both.append(joined(write_shards(folder, COUNTS, suffix=suffix)))
    assert both[0] == both[1]


def test_one_shard_without_shuffling_is_the_order_of_the_files(shards):
    """With ``canonical_shards=1`` nothing is woven."""
    (found,) = joined(shards, epochs=1, stream={"shuffle": False, "canonical_shards": 1})
    assert [number for number, _ in found] == list(range(SAMPLES))


@pytest.mark.parametrize("steps", [1, 4, 7])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 3])
def test_a_stream_goes_on_elsewhere(shards, steps, ranks, workers):
    """From a position, with other workers, ranks and another batch size."""
    (expected,) = joined(shards, epochs=1)
    first = fastload.DataLoader(make_stream(shards), 16, seed=7)
    batches = iter(first)
    found = [row for _ in range(steps) for row in next(batches)[0].tolist()]
    state = first.state_dict()
    assert state["position"] == 16 * steps
    rest = []
    for rank in range(ranks):
        with fastload.DataLoader(
            make_stream(shards),
            10,
            seed=7,
            num_workers=workers,
            num_replicas=ranks,
            rank=rank,
            even="none",
        ) as loader:
            loader.load_state_dict(state)
            rest.append([batch.tolist() for batch, _ in loader])
    found += [
        row for step in itertools.zip_longest(*rest) for batch in step if batch for row in batch
    ]
    assert found == [number for number, _ in expected]


def count_reads(monkeypatch, kind):
    """Note where shards are read."""
    reads = []
    original = kind.read

    def read(source, offset, size):
        reads.append((source.path, offset))
        return original(source, offset, size)

    monkeypatch.setattr(kind, "read", read)
    return reads


def test_a_resume_reads_only_what_it_delivers(tmp_path, monkeypatch):
    """Of plain shards with indices, no header and no member of before."""
    shards = write_shards(tmp_path, COUNTS)
    for path in shards:
        write_index(path, build_index(path, checksums=True))
    loader = fastload.DataLoader(make_stream(shards), 16, seed=7)
    steps = iter(loader)
    for _ in range(5):
        next(steps)
    state = loader.state_dict()
    reads = count_reads(monkeypatch, PlainSource)
    other = fastload.DataLoader(make_stream(shards), 16, seed=7)
    other.load_state_dict(state)
    next(iter(other))
    assert len(reads) == len(set(reads)) == 2 * 16


def test_packed_shards_are_unpacked_once_without_workers(tmp_path, monkeypatch):
    """A buffer for each canonical shard is kept, so nothing is read twice."""
    shards = write_shards(tmp_path, COUNTS, suffix="tar.gz")
    stream = make_stream(shards)
    stream.seeded_length  # noqa: B018  (reads the headers)
    reads = count_reads(monkeypatch, GzipSource)
    assert len(list(fastload.DataLoader(stream, None, seed=7))) == SAMPLES
    assert len(reads) == len(set(reads)) == 2 * SAMPLES
    for path in shards:
        offsets = [offset for read, offset in reads if read == path]
        assert offsets == sorted(offsets)


def noisy(sample):
    """A transform that draws."""
    return sample[0], random.random() + np.random.random() + torch.rand(()).item()


@pytest.mark.parametrize("workers", [0, 2])
def test_draws_of_transforms_follow_from_the_position(shards, workers):
    """A transform is called with generators set for the sample's position."""

    def drawn(batch_size, workers):
        with fastload.DataLoader(
            make_stream(shards, transform=noisy), batch_size, seed=7, num_workers=workers
        ) as loader:
            return torch.cat([draws for _, draws in loader])

    expected = drawn(1, 0)
    assert torch.equal(drawn(20, workers), expected)
    assert len(expected.unique()) == SAMPLES


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_keeps_its_position(tmp_path, workers):
    """With ``on_error="skip"`` its batch is smaller; all others are as they were."""
    shards = write_shards(tmp_path, COUNTS)
    for path in shards:
        write_index(path, build_index(path, checksums=True))
    (expected,) = joined(shards, epochs=1)
    damaged = Path(shards[3])
    content = damaged.read_bytes()
    at = content.index(b"text 77")
    damaged.write_bytes(content[:at] + b"x" + content[at + 1 :])
    with pytest.raises(fastload.CorruptDataError, match=r"member 00077\.txt at offset") as caught:
        joined(shards, epochs=1, num_workers=workers)
    assert (caught.value.path, caught.value.offset) == (str(damaged), at)
    with fastload.DataLoader(
        make_stream(shards), 16, seed=7, num_workers=workers, on_error="skip"
    ) as loader:
        batches = [list(zip(number.tolist(), text, strict=True)) for number, text in loader]
        (skipped,) = loader.stats().skipped
    place = expected.index((77, "text 77"))
    assert skipped.index == place
    assert [len(batch) for batch in batches] == [
        min(16, SAMPLES - first) - (first <= place < first + 16) for first in range(0, SAMPLES, 16)
    ]
    assert [row for batch in batches for row in batch] == [
        row for row in expected if row != (77, "text 77")
    ]


def test_a_damaged_packed_shard_is_skipped_sample_by_sample(tmp_path):
    """Its samples before the damage arrive, and all of the others."""
    shards = write_shards(tmp_path, COUNTS, suffix="tar.gz")
    stream = make_stream(shards, canonical_shards=1)
    stream.seeded_length  # noqa: B018  (of the whole shards)
    damaged = Path(shards[3])
    status, content = damaged.stat(), damaged.read_bytes()
    with damaged.open("r+b") as file:
        file.seek(len(content) // 2)
        file.write(b"\0" * (len(content) - len(content) // 2))
    os.utime(damaged, ns=(status.st_atime_ns, status.st_mtime_ns))
    loader = fastload.DataLoader(stream, 16, seed=7, on_error="skip")
    found = sorted(number for numbers, _ in loader for number in numbers.tolist())
    skipped = loader.stats().skipped
    assert len(found) + len(skipped) == SAMPLES
    lost = sorted(set(range(SAMPLES)) - set(found))
    assert lost == list(range(lost[0], sum(COUNTS[:4])))
    assert 0 < len(lost) < COUNTS[3]


def test_another_rank_is_refused(shards):
    """A stream that was told its rank is not dealt again."""
    stream = make_stream(shards, rank=1, world_size=2)
    with pytest.raises(ValueError, match=r"given rank 1 of 2, but the loader .* is rank 0 of 1"):
        list(fastload.DataLoader(stream, 4, seed=7))


def test_a_state_of_another_weave_is_refused(shards):
    """It names what differs."""
    loader = fastload.DataLoader(make_stream(shards), 16, seed=7)
    other = fastload.DataLoader(make_stream(shards, canonical_shards=2), 16, seed=7)
    with pytest.raises(ValueError, match="canonical_shards 3; this loader has canonical_shards 2"):
        other.load_state_dict(loader.state_dict())
