"""The figures on tar shards are of ways that give the same batches; the table says what missed."""

from __future__ import annotations

import tempfile

import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("simplejpeg")
pytest.importorskip("sklearn")
pytest.importorskip("webdataset")

from benchmarks import tar
from benchmarks.publish import TAR_LINES, _tar
from fastload.tools.bench.workloads.tar_files import TarfileShards, shards_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",  # webdataset leaves shards open
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(autouse=True)
def few_files(monkeypatch, tmp_path_factory):
    """In a folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.getbasetemp()))
    monkeypatch.setattr(tar, "SAMPLES", 72)
    monkeypatch.setattr(tar, "BATCH_SIZE", 8)
    tar.make_indices()


def test_all_ways_give_the_same_batches():
    tar.check()


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("torch", "batch 0 of torch is not that of webdataset"),
        ("fastload, indexed", "the samples of fastload, indexed are not those of webdataset"),
    ],
)
def test_other_pixels_are_found(monkeypatch, way, message):
    original = tar.batches_of

    def batches_of(asked):
        for images, labels in original(asked):
            yield images + torch.tensor(asked == way, dtype=torch.uint8), labels

    monkeypatch.setattr(tar, "batches_of", batches_of)
    with pytest.raises(tar.WrongError, match=message):
        tar.check()


def test_shards_are_made_once_and_hold_all_photographs():
    paths = shards_of(72, 256, 256)
    samples = list(TarfileShards(paths))
    assert [label for _, label in samples] == [number % 10 for number in range(72)]
    assert len({image.numpy().tobytes() for image, _ in samples}) == 72
    assert shards_of(72, 256, 256) == paths


def test_the_table_says_what_was_missed():
    rates = {way: [100.0, 300.0, 200.0] for way in tar.WAYS}
    rates["webdataset"] = [50.0, 75.0, 40.0]
    rates["fastload, indexed"] = [100.0, 150.0, 80.0]
    machine = {"python": "3", "torch": "2", "cores": 2, "processor": "x"}
    table = _tar({"machine": machine, "settings": {"rounds": 3}, "rates": rates})
    lines = table.splitlines()[4:]
    assert len(lines) == len(TAR_LINES)
    assert lines[2].endswith("| 200 | 4.00 | at least 3 |")
    assert lines[3].endswith("| 100 | 2.00 | at least 3 (missed) |")
