"""The figures on images are of ways that give the same batches, and the table says what missed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

pytest.importorskip("PIL")
pytest.importorskip("simplejpeg")
pytest.importorskip("sklearn")

from benchmarks import images
from benchmarks.publish import IMAGE_LINES, _images
from fastload.tools.bench.workloads.image_files import PillowFolder, folder_of

COUNT = 70


@pytest.fixture(autouse=True)
def few_files(monkeypatch, tmp_path_factory):
    """In a folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.getbasetemp()))
    monkeypatch.setattr(images, "COMPARED", COUNT)


@pytest.mark.parametrize("load", images.LOADS)
def test_all_ways_give_the_same_batches(load):
    images.check(load)


def test_other_pixels_are_found(monkeypatch):
    class Brighter(PillowFolder):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image + (index == 65), label

    size, ways = images.LOADS["decode"]
    wrong = {**ways, "torch, simplejpeg": ("torch", lambda folder: Brighter(folder.samples))}
    monkeypatch.setitem(images.LOADS, "decode", (size, wrong))
    with pytest.raises(
        images.WrongError, match=r"batch 1 of torch, simplejpeg differs from torch's"
    ):
        images.check("decode")


def test_files_are_made_once_and_are_photographs():
    """A larger run keeps those of a smaller one, and leaves out nothing."""
    few = folder_of(3, 32, 48)
    made = [Path(path).stat().st_mtime_ns for path, _ in few.samples]
    more = folder_of(5, 32, 48)
    assert {path for path, _ in few.samples} < {path for path, _ in more.samples}
    assert len(folder_of(3, 32, 48)) == 3
    assert [Path(path).stat().st_mtime_ns for path, _ in few.samples] == made
    assert len(more) == 5
    assert {tuple(image.shape) for image, _ in more} == {(3, 32, 48)}
    assert len({image.numpy().tobytes() for image, _ in more}) == 5


def test_the_table_says_what_was_missed():
    rates = {
        load: {way: [100.0, 300.0, 200.0] for way in ways}
        for load, (_, ways) in images.LOADS.items()
    }
    rates["decode"]["torch"] = [20.0, 75.0, 40.0]
    machine = {"python": "3", "torch": "2", "cores": 2, "processor": "x"}
    table = _images({"machine": machine, "settings": {"rounds": 3}, "rates": rates})
    lines = table.splitlines()[4:]
    assert len(lines) == len(IMAGE_LINES)
    assert lines[0].endswith("| 40 | 200 | **5.00** | at least 4 |")
    assert lines[1].endswith("| 200 | 200 | **1.00** | at least 0.75 |")
    assert lines[3].endswith("| **1.00** | at least 1.7 (missed) |")
