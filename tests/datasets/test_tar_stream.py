"""``TarStream`` and ``TarDataset``: the samples of webdataset, each once."""

from __future__ import annotations

import copy
import gc
import gzip
import io
import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastload
from fastload import TarDataset, TarStream
from fastload._memory.write import HEAP
from fastload.datasets.tar_batches import gather_samples
from fastload.datasets.tar_index import build_index, index_path, load_index, write_index
from tests.datasets.shards import numbered, write_shard, write_shards

COUNTS = (7, 0, 30, 1, 12)
TOTAL = sum(COUNTS)


@pytest.fixture(scope="module", params=["tar", "tar.gz"])
def paths(request, tmp_path_factory) -> list[str]:
    """Shards of different length, without indices."""
    return write_shards(tmp_path_factory.mktemp("shards"), COUNTS, suffix=request.param)


@pytest.fixture(scope="module", params=["tar", "tar.gz"])
def indexed(request, tmp_path_factory) -> list[str]:
    """The same, with indices."""
    found = write_shards(tmp_path_factory.mktemp("indexed"), COUNTS, suffix=request.param)
    make_indices(found)
    return found


def make_indices(paths: list[str]) -> None:
    for path in paths:
        write_index(path, build_index(path, checksums=True))


def numbers(samples: Any) -> list[int]:
    return [sample["cls"] for sample in samples]


class Everything:
    """What the package webdataset gives."""

    def __init__(self, paths: list[str], *decode: str) -> None:
        wds = pytest.importorskip("webdataset")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves shards open
            dataset = wds.WebDataset(paths, shardshuffle=False, empty_check=False)
            self.samples = list(dataset.decode(*decode) if decode else dataset)
            del dataset
            gc.collect()
        for sample in self.samples:
            sample.pop("__local_path__", None)


def assert_equal(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for name in ours:
            assert_equal(ours[name], theirs[name])
    elif isinstance(ours, list | tuple):
        for mine, other in zip(ours, theirs, strict=True):
            assert_equal(mine, other)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def test_samples_are_those_of_webdataset(paths: list[str]) -> None:
    """Bytes, keys, shards, order; and decoded."""
    theirs = Everything(paths).samples
    assert len(theirs) == TOTAL
    assert list(TarStream(paths, decode=False)) == theirs
    decoded = Everything(paths, "torchrgb8").samples
    for ours, other in zip(TarStream(paths), decoded, strict=True):
        assert_equal(ours, other)


def picture(kind: str, mode: str = "RGB") -> bytes:
    image = pytest.importorskip("PIL.Image")
    values = np.random.default_rng(0).integers(0, 256, (4, 6, len(mode)), np.uint8).repeat(8, 0)
    file = io.BytesIO()
    image.fromarray(values.squeeze(), mode).save(file, kind)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_odd_names_and_values_are_those_of_webdataset(tmp_path: Path) -> None:
    """Hidden files, metadata, no extension, upper case, several dots, packed members, images."""
    members = [
        ("__meta__/x.json", b"{}"),
        ("__index__", b"x"),
        ("README", b"x"),
        ("./a/0.TXT", "täxt".encode()),
        ("./a/0.seg.png", picture("PNG", "L")),
        ("./a/.hidden", b"y"),
        ("a.b/0.jpg", picture("JPEG")),
        ("a.b/0.index", b" 12\n"),
        ("a.b/noextension", b"z"),
        ("a.b/0.json.gz", gzip.compress(b'{"x": [1, null]}')),
        ("a.b/0.bin", b"\0\1"),
        ("a.b/0", b"between"),
        ("._0.jpg", b"no image"),
        ("b.rgba.png", picture("PNG", "RGBA")),
        ("b.npz", npz()),
        ("a.b/0.txt", b"the same key once more"),
        ("__0__.txt", b"no metadata"),
        ("c.", b"nothing behind the dot"),
        ("d.cls", b"-3"),
    ]
    path = write_shard(tmp_path / "x.tar", members)
    assert list(TarStream(path, decode=False)) == Everything([path]).samples
    assert [sample["__key__"] for sample in TarDataset(path, decode=False)] == [
        sample["__key__"] for sample in Everything([path]).samples
    ]
    theirs = Everything([path], "torchrgb8").samples
    for ours, other in zip(TarStream(path), theirs, strict=True):
        assert_equal(ours, other)


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.arange(3), y=np.float32(1))
    return file.getvalue()


@pytest.mark.parametrize(
    "workers", [0, *(pytest.param(each, marks=pytest.mark.exhaustive) for each in (1, 2)), 3]
)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_sample_comes_once(paths, indexed, workers: int, ranks: int, shuffle: bool) -> None:
    """With an index or without, whoever reads; with one, shares are equal and lengths exact."""
    for shards in (paths, indexed):
        found, lengths = [], []
        for rank in range(ranks):
            stream = TarStream(
                shards, shuffle, buffer_samples=8, rank=rank, world_size=ranks, fields=["cls"]
            )
            with fastload.DataLoader(stream, batch_size=4, num_workers=workers) as loader:
                batches = [batch for (batch,) in loader]
                if shards is indexed:
                    assert len(loader) == len(batches)
            found += torch.cat(batches).tolist()
            lengths.append(sum(map(len, batches)))
        assert sorted(found) == list(range(TOTAL))
        if shards is indexed:
            assert max(lengths) - min(lengths) <= 1


def test_the_order_is_that_of_seed_and_epoch(paths: list[str], indexed: list[str]) -> None:
    """The same with an index and without; another in another epoch, or of another seed."""
    streams = [TarStream(each, shuffle=True, buffer_samples=9, seed=3) for each in (paths, indexed)]
    (first, second) = (numbers(stream) for stream in streams)
    assert first == second == numbers(streams[0])
    for stream in streams:
        stream.set_epoch(1)
    assert first != numbers(streams[0]) == numbers(streams[1])
    assert first != numbers(TarStream(paths, shuffle=True, buffer_samples=9, seed=4))
    assert numbers(TarStream(paths)) == list(range(TOTAL))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("position", [0, 1, 8, 9, 25, TOTAL - 1])
def test_a_stream_goes_on_where_a_state_says(
    paths: list[str], indexed: list[str], shuffle: bool, position: int
) -> None:
    """In the middle of a buffer too, through JSON."""
    for shards in (paths, indexed):
        stream = TarStream(shards, shuffle, buffer_samples=8)
        stream.set_epoch(2)
        expected = numbers(stream)
        samples = iter(stream)
        for _ in range(position):
            next(samples)
        state = json.loads(json.dumps(stream.state_dict()))
        other = TarStream(shards, shuffle, buffer_samples=8)
        other.load_state_dict(state)
        assert other.state_dict() == state
        assert numbers(other) == expected[position:]
        assert numbers(other) != expected[position:] or not position  # an epoch of its own


def test_a_state_of_an_end_begins_an_epoch(paths: list[str]) -> None:
    """For any number of readers."""
    stream = TarStream(paths)
    list(stream)
    state = stream.state_dict()
    assert state["is_finished"]
    stream.load_state_dict(state)
    assert len(numbers(stream)) == TOTAL


def test_a_state_of_another_stream_is_refused(paths: list[str]) -> None:
    """It says what differs."""
    state = TarStream(paths).state_dict()
    with pytest.raises(ValueError, match="is of another stream"):
        TarStream(paths[:2]).load_state_dict(state)
    with pytest.raises(ValueError, match="is of another stream"):
        TarStream(paths, shuffle=True).load_state_dict(state)
    stream = TarStream(paths, rank=0, world_size=2)
    stream.load_state_dict(state)
    with pytest.raises(ValueError, match="cannot be resumed in"):
        list(stream)


@pytest.mark.parametrize("has_index", [False, True])
def test_a_state_of_other_shards_is_refused(tmp_path: Path, has_index: bool) -> None:
    """Of as many as these, of other order too; it says both. Where they lie is of no concern."""
    states = {}
    for place, names in {"a": "xy", "b": "xy", "c": "pq"}.items():
        (tmp_path / place).mkdir()
        paths = [
            write_shard(tmp_path / place / f"{name}.tar", numbered(0, 5 + number))
            for number, name in enumerate(names)
        ]
        if has_index:
            make_indices(paths)
        states[place] = paths, TarStream(paths).state_dict()
    paths, state = states["a"]
    TarStream(states["b"][0]).load_state_dict(state)
    for others in (states["c"][0], paths[::-1]):
        with pytest.raises(ValueError, match=r"it says .*'x\.tar', .* here it is .*'[py]\.tar'"):
            TarStream(others).load_state_dict(state)
        loader = fastload.DataLoader(TarStream(paths), 2, seed=0)
        other = fastload.DataLoader(TarStream(others), 2, seed=0)
        with pytest.raises(ValueError, match=r"x\.tar.*[py]\.tar"):
            other.load_state_dict(loader.state_dict())


def test_a_resume_with_an_index_reads_nothing_of_before(tmp_path: Path) -> None:
    """The shards that came before may even be damaged by now, at equal size and time."""
    shards = write_shards(tmp_path, [5, 5, 5])
    make_indices(shards)
    stream = TarStream(shards)
    samples = iter(stream)
    for _ in range(7):
        next(samples)
    state = stream.state_dict()
    for path in shards[:1]:
        status = Path(path).stat()
        Path(path).write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    other = TarStream(shards)
    other.load_state_dict(state)
    assert numbers(other) == list(range(7, 15))


def test_fields_make_tuples(paths: list[str]) -> None:
    """Also of alternatives; what is not named is not read."""
    found = list(TarStream(paths, fields=["jpg;TXT", ".cls"]))
    assert found[3] == ("text 3", 3)
    with pytest.raises(ValueError, match=r"'00000' has no field 'jpg;png'; it has \['txt', 'cls'"):
        list(TarStream(paths, fields=["jpg;png"]))
    for wrong, error in (
        ("jpg", TypeError),
        ([1], TypeError),
        ([], ValueError),
        (["a;"], ValueError),
    ):
        with pytest.raises(error, match="fields"):
            TarStream(paths, fields=wrong)


def test_functions_decode_what_they_are_given_for(paths: list[str]) -> None:
    """A function of the whole name goes first; an error of one stays as it is, with a note."""
    stream = TarStream(
        paths, decode={"txt": bytes.upper, ".NPY": len}, fields=["txt", "npy", "cls"]
    )
    assert next(iter(stream)) == (b"TEXT 0", 134, 0)
    with pytest.raises(TypeError, match="mapping of names"):
        TarStream(paths, decode={"txt": "upper"})
    with pytest.raises(ZeroDivisionError) as caught:
        next(iter(TarStream(paths, decode={"txt": lambda _: 1 // 0})))
    assert any("the member 00000.txt at offset" in note for note in caught.value.__notes__)


def test_a_transform_gets_each_sample(paths: list[str]) -> None:
    """Of the dataset and of the stream."""
    stream = TarStream(paths, fields=["cls"], transform=lambda sample: -sample[0])
    assert list(stream) == [-number for number in range(TOTAL)]


def test_pickles_are_refused_unless_asked_for(tmp_path: Path) -> None:
    """The error says what to do; others of the sample can be read."""
    saved = io.BytesIO()
    torch.save(torch.arange(3), saved)
    members = [
        ("0.pkl", pickle.dumps([1])),
        ("0.pth", saved.getvalue()),
        ("0.pyd", pickle.dumps({})),
        ("0.txt", b"x"),
    ]
    path = write_shard(tmp_path / "x.tar", members)
    for name in ("pkl", "pth", "pyd"):
        with pytest.raises(ValueError, match=rf"0\.{name} .* is a pickle.*allow_pickle=True"):
            list(TarStream(path, fields=[name]))
    assert list(TarStream(path, fields=["txt"])) == [("x",)]
    assert list(TarStream(path, fields=["pkl"], decode={"pkl": len})) == [(len(pickle.dumps([1])),)]
    (sample,) = TarStream(path, allow_pickle=True)
    assert (sample["pkl"], sample["pyd"], sample["pth"].tolist()) == ([1], {}, [0, 1, 2])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("jpg", b"\xff\xd8\xff no image"),
        ("png", b""),
        ("json", b"{"),
        ("cls", b"x"),
        ("txt", b"\xff"),
        ("npy", b"\x93NUMPY"),
        ("npy", pickle.dumps([1])),
        ("npz", b"PK"),
        ("json.gz", b"{}"),
    ],
)
def test_what_is_not_what_its_name_says_is_told(tmp_path: Path, name: str, content: bytes) -> None:
    """With shard, member and offset; the samples around it are there with ``on_error="skip"``."""
    members = [("0.cls", b"0"), (f"1.{name}", content), ("2.cls", b"2")]
    path = write_shard(tmp_path / "x.tar", members)
    with pytest.raises(fastload.CorruptDataError, match=rf"1\.{name} at offset 1536") as caught:
        list(TarStream(path))
    assert (caught.value.path, caught.value.offset) == (path, 1536)
    for workers in (0, 2):
        for seed in (None, 0):
            loader = fastload.DataLoader(
                TarStream(path), None, on_error="skip", num_workers=workers, seed=seed
            )
            with loader:
                assert sorted(sample["cls"] for sample in loader) == [0, 2]
                assert len(loader.stats().skipped) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_behind_a_damaged_shard_the_next_is_read(tmp_path: Path, workers: int) -> None:
    """With ``on_error="skip"``, without an index: the rest of the shard is one error."""
    shards = write_shards(tmp_path, [3, 3, 3])
    content = Path(shards[1]).read_bytes()
    Path(shards[1]).write_bytes(content[:5000] + bytes(1000) + content[6000:])
    with pytest.raises(fastload.CorruptDataError, match=rf"{shards[1]} is damaged at offset 6144"):
        list(TarStream(shards))
    stream = TarStream(shards)
    with fastload.DataLoader(stream, None, on_error="skip", num_workers=workers) as loader:
        assert numbers(loader) == [0, 1, 2, 3, 6, 7, 8]
        assert len(loader.stats().skipped) == 1


def test_samples_by_index_are_those_in_sequence(tmp_path: Path) -> None:
    """With an index and without, of torch's loader too, in another process."""
    shards = write_shards(tmp_path, COUNTS)
    for _ in range(2):
        dataset = TarDataset(shards)
        assert len(dataset) == TOTAL
        assert dataset.block_lengths == list(COUNTS)
        for ours, other in zip(dataset, TarStream(shards), strict=True):
            assert_equal(ours, other)
        assert dataset[-1]["cls"] == TOTAL - 1
        for index in (TOTAL, -TOTAL - 1):
            with pytest.raises(IndexError, match=f"out of range of {TOTAL}"):
                dataset[index]
        loader = torch.utils.data.DataLoader(
            TarDataset(shards, fields=["cls"]),
            batch_size=5,
            num_workers=1,
            multiprocessing_context="spawn",
        )
        assert torch.cat([batch for (batch,) in loader]).tolist() == list(range(TOTAL))
        make_indices(shards)


def test_packed_shards_are_not_read_by_index(tmp_path: Path) -> None:
    """It would begin anew for each sample."""
    with pytest.raises(ValueError, match=r"is packed by gzip.*gunzip"):
        TarDataset(write_shards(tmp_path, [2], suffix="tar.gz"))


def test_a_stream_without_an_index_has_no_length(paths: list[str]) -> None:
    """The error says how to make one."""
    with pytest.raises(TypeError, match="fastload index"):
        len(TarStream(paths))


def test_an_index_may_be_required(tmp_path: Path) -> None:
    """Or ignored; where only some shards have one, it is not used, with a warning."""
    shards = write_shards(tmp_path, [2, 3])
    with pytest.raises(FileNotFoundError, match=r"2 of 2 shards have no index.*fastload index"):
        TarStream(shards, index="require")
    make_indices(shards[:1])
    with pytest.warns(RuntimeWarning, match="1 of 2 shards have no index"):
        assert not TarStream(shards).shards.is_indexed
    assert len(TarDataset(shards)) == 5
    make_indices(shards)
    assert len(TarStream(shards, index="require")) == 5
    assert not TarStream(shards, index="ignore").shards.is_indexed
    with pytest.raises(ValueError, match="index is one of"):
        TarStream(shards, index="always")  # type: ignore[arg-type]


def test_an_index_of_another_state_is_refused(tmp_path: Path) -> None:
    """By size; by time unless all headers are where it says, as of a copy."""
    (path,) = write_shards(tmp_path, [4])
    make_indices([path])
    os.utime(path, ns=(1, 1))
    assert len(TarStream(path)) == 4
    with pytest.raises(ValueError, match=r"of another state of the shard.*fastload index"):
        TarStream(path, verify=False)
    # Equal headers, other content: seen when it is read.
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"text 2", b"text 7"))
    with pytest.raises(fastload.CorruptDataError, match="its checksum is not that of the index"):
        list(TarStream(path))
    # Other headers, equal size.
    Path(path).unlink()
    write_shard(path, [(f"x{name}", content) for name, content in numbered(0, 4)])
    with pytest.raises(ValueError, match="of another state of the shard"):
        TarStream(path)
    write_shard(path, numbered(0, 40))
    for make in (TarStream, TarDataset):
        with pytest.raises(ValueError, match="of another state of the shard: of 20480 bytes"):
            make(path)


def test_a_shard_that_changes_later_is_refused(tmp_path: Path) -> None:
    """By the process that opens it then."""
    (path,) = write_shards(tmp_path, [4])
    dataset = TarDataset(path)
    write_shard(path, numbered(0, 40))
    with pytest.raises(ValueError, match="has changed since its index was read"):
        dataset[0]


def test_a_shard_that_is_written_anew_while_it_is_open_is_refused(tmp_path: Path) -> None:
    """Its samples would be found where others were; with checksums, those tell it."""
    for has_index in (False, True):
        path = write_shard(tmp_path / f"{has_index}.tar", numbered(0, 4))
        if has_index:
            make_indices([path])
        for make in (TarDataset, lambda path: TarDataset(path, verify=False)):
            dataset = make(path)
            assert dataset[1]["cls"] == 1
            write_shard(path, numbered(0, 4)[::-1])
            os.utime(path, ns=(0, 0))
            error = r"(?s)has changed since its index was read.*1970|its checksum is not that"
            with pytest.raises(ValueError, match=error):
                dataset[1]
            write_shard(path, numbered(0, 4))
            if has_index:
                make_indices([path])


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_an_epoch_reads_the_shards_that_are_there_when_it_begins(tmp_path, suffix) -> None:
    """One that was replaced or written anew since the epoch before is opened again."""
    (path,) = write_shards(tmp_path, [4], suffix=suffix)
    stream = TarStream(path)
    assert numbers(stream) == [0, 1, 2, 3]
    mode = "w:gz" if suffix.endswith("gz") else "w"
    new = write_shard(tmp_path / "new", numbered(10, 15), mode=mode)
    Path(new).replace(path)
    assert numbers(stream) == [10, 11, 12, 13, 14]
    write_shard(path, numbered(20, 27), mode=mode)
    assert numbers(stream) == list(range(20, 27))


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    """Wherever it is damaged, or cut."""
    (path,) = write_shards(tmp_path, [4])
    make_indices([path])
    beside = Path(index_path(path))
    content = beside.read_bytes()
    assert load_index(path) is not None
    draw = np.random.default_rng(0)
    refused = 0
    for at in draw.integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(draw.integers(8))
        beside.write_bytes(damaged)
        try:
            load_index(path)
        except ValueError:
            refused += 1
            with pytest.raises(ValueError, match=index_path(path)):
                TarDataset(path)
        else:  # a date in the zip file, say
            assert numbers(TarDataset(path)) == [0, 1, 2, 3]
    assert refused > 75
    for size in range(0, len(content), 97):
        beside.write_bytes(content[:size])
        with pytest.raises(fastload.CorruptDataError, match="is damaged, or is no index"):
            load_index(path)


def test_options_that_do_not_fit_are_refused(paths: list[str]) -> None:
    """With their values."""
    for name in ("buffer_samples", "canonical_shards", "turn_samples"):
        with pytest.raises(ValueError, match=f"{name} is at least 1, but got 0"):
            TarStream(paths, **{name: 0})
    with pytest.raises(ValueError, match="seed is at least 0"):
        TarStream(paths, seed=-1)
    with pytest.raises(ValueError, match="epoch is at least 0"):
        TarStream(paths).set_epoch(-1)


def test_an_empty_shard_has_no_samples(tmp_path: Path) -> None:
    """It is no error, by whichever reader."""
    shards = write_shards(tmp_path, [0])
    assert list(TarStream(shards)) == []
    assert len(TarDataset(shards)) == 0
    make_indices(shards)
    assert list(TarStream(shards, shuffle=True)) == []
    assert list(fastload.DataLoader(TarStream(shards), 4, seed=0)) == []


def photograph_members(count: int, sizes: tuple[int, ...] = (32,)) -> list[tuple[str, bytes]]:
    image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(0)
    members = []
    for number in range(count):
        side = sizes[number % len(sizes)]
        file = io.BytesIO()
        pixels = draw.integers(0, 256, (4, 6, 3), np.uint8).repeat(side // 4, 0)
        image.fromarray(pixels).save(file, "JPEG")
        members += [(f"{number}.jpg", file.getvalue()), (f"{number}.txt", b"%d" % number)]
    return members


READERS = {
    "stream": lambda path, **options: fastload.DataLoader(TarStream(path), 4, **options),
    "stream of tuples": lambda path, **options: fastload.DataLoader(
        TarStream(path, fields=["txt", "jpg"]), 4, **options
    ),
    "by index": lambda path, **options: fastload.DataLoader(TarDataset(path), 4, **options),
    "seeded": lambda path, **options: fastload.DataLoader(TarStream(path), 4, seed=0, **options),
}


@pytest.mark.parametrize("sizes", [(32,), (32, 32, 32, 32, 36)], ids=["one size", "two sizes"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", READERS.values(), ids=READERS)
def test_batches_decoded_in_place_are_those_of_samples(tmp_path, sizes, workers, make) -> None:
    """The same types, values and lengths as of torch's loader; images in channels-last memory."""
    path = write_shard(tmp_path / "x.tar", photograph_members(10, sizes))
    fields = ["txt", "jpg"] if make is READERS["stream of tuples"] else None
    expected = torch.utils.data.DataLoader(TarStream(path, fields=fields), batch_size=4)
    if len(sizes) > 1:
        with pytest.raises(RuntimeError, match="stack"):
            list(expected)
        with make(path, num_workers=workers) as loader, pytest.raises(RuntimeError, match="stack"):
            list(loader)
        return
    is_plain_stream = make in {READERS["stream"], READERS["stream of tuples"]}
    with make(path, num_workers=min(workers, 1) if is_plain_stream else workers) as loader:
        found = list(loader)
    for ours, theirs in zip(found, expected, strict=True):
        assert_equal(ours, theirs)
        images = ours["jpg"] if fields is None else ours[1]
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_in_place_a_damaged_image_is_left_out(tmp_path: Path) -> None:
    """The rest of its batch arrives; without ``on_error`` the error names it, once."""
    members = photograph_members(10)
    members[8] = ("4.jpg", members[8][1][:-40])
    path = write_shard(tmp_path / "x.tar", members)
    for make in READERS.values():
        with pytest.raises(fastload.CorruptDataError, match=r"4\.jpg at offset"):
            list(make(path))
        loader = make(path, on_error="skip")
        texts = [
            text
            for batch in loader
            for text in (batch["txt"] if isinstance(batch, dict) else batch[0])
        ]
        assert texts == [str(number) for number in range(10) if number != 4]
        assert len(loader.stats().skipped) == 1


def test_after_an_error_the_next_batch_has_what_comes_next(tmp_path: Path) -> None:
    """As of any iterator of a class: samples before the error are lost with their batch."""
    members = photograph_members(10)
    members[8] = ("4.jpg", members[8][1][:-40])
    path = write_shard(tmp_path / "x.tar", members)
    batches = iter(fastload.DataLoader(TarStream(path), 4))
    assert next(batches)["txt"] == ["0", "1", "2", "3"]
    with pytest.raises(fastload.CorruptDataError):
        next(batches)
    assert next(batches)["txt"] == ["5", "6", "7", "8"]


def test_a_state_counts_samples_of_batches(tmp_path: Path) -> None:
    """Also where batches are made at once."""
    path = write_shard(tmp_path / "x.tar", photograph_members(10))
    loader = fastload.DataLoader(TarStream(path), 4)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    other = fastload.DataLoader(TarStream(path), 4)
    other.load_state_dict(state)
    assert [batch["txt"] for batch in other] == [["4", "5", "6", "7"], ["8", "9"]]


def test_a_seeded_epoch_does_not_change_how_shards_are_dealt(paths: list[str]) -> None:
    """It reads headers; what other epochs, ranks and states rest on stays as it was."""
    stream = TarStream(paths)
    state = stream.state_dict()
    list(fastload.DataLoader(stream, 4, seed=0, collate_fn=list))
    assert stream.state_dict() == state
    with pytest.raises(TypeError, match="without indices has no length"):
        len(stream)


def test_a_stream_that_is_being_read_travels(tmp_path: Path) -> None:
    """Its iterator stays where it is, so workers of ``spawn`` and copies begin an epoch."""
    (path,) = write_shards(tmp_path, [5])
    stream = TarStream(path)
    samples = iter(stream)
    next(samples)
    for other in (pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream)):
        assert numbers(other) == [0, 1, 2, 3, 4]
    assert numbers(samples) == [1, 2, 3, 4]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_end_is_known_where_batches_are_made_at_once(tmp_path: Path, workers: int) -> None:
    """The state then begins an epoch, as after samples one by one."""
    path = write_shard(tmp_path / "x.tar", photograph_members(10))
    stream = TarStream(path)
    loader = fastload.DataLoader(stream, 4, num_workers=workers)
    assert len(list(loader)) == 3
    if not workers:
        assert stream.state_dict()["is_finished"]
        other = TarStream(path)
        other.load_state_dict(stream.state_dict())
        assert len(list(other)) == 10
    again = fastload.DataLoader(TarStream(path), 4, num_workers=workers)
    again.load_state_dict(loader.state_dict())
    assert len(list(again)) in {0, 3}  # of the end of the epoch, or the one behind it
    assert len(list(again)) == 3


def test_what_is_put_back_does_not_pile_up(tmp_path: Path) -> None:
    """A batch that can not be made at once, over and over: nothing is lost, nothing grows."""
    path = write_shard(tmp_path / "x.tar", photograph_members(6, (32, 36)))
    samples = iter(TarStream(path))
    for _ in range(3_000):
        assert samples.next_batch(4, HEAP) is None
    assert [sample["txt"] for sample in samples] == [str(number) for number in range(6)]


def test_samples_without_images_are_not_looked_at_twice(tmp_path: Path, monkeypatch: Any) -> None:
    """Batches of texts are made of samples, and no batch is tried first but one."""
    tried = []
    monkeypatch.setattr(
        "fastload.datasets.tar_stream.gather_samples",
        lambda *arguments: tried.append(1) or gather_samples(*arguments),
    )
    (path,) = write_shards(tmp_path, [20])
    assert len(list(fastload.DataLoader(TarStream(path, fields=["cls"]), 2))) == 10
    assert len(tried) == 1
    assert TarDataset(path, fields=["cls"]).gather_node() is None


@pytest.mark.parametrize("way", ["fork", "thread"])
def test_workers_read_with_positions_of_their_own(tmp_path: Path, way: str) -> None:
    """Packed shards that the program has begun to read are opened anew by each worker."""
    shards = write_shards(tmp_path, [400, 400], suffix="tar.gz")
    make_indices(shards)
    stream = TarStream(shards, fields=["cls"])
    begun = iter(stream)
    assert next(begun) == (0,)
    options = {"worker_method": "thread"} if way == "thread" else {}
    for seed in (None, 0):
        with fastload.DataLoader(stream, 7, num_workers=2, seed=seed, **options) as loader:
            found = torch.cat([batch for (batch,) in loader]).tolist()
        assert sorted(found) == list(range(800))
    assert [number for (number,) in begun] == list(range(1, 800))


def test_a_seeded_loader_does_not_change_the_stream(tmp_path: Path) -> None:
    """That it has read headers gives others neither a length nor another order or state."""
    shards = write_shards(tmp_path, [3, 4])
    stream = TarStream(shards, rank=1, world_size=2)
    state, expected = stream.state_dict(), numbers(stream)
    assert stream.seeded_length == 7
    assert numbers(stream) == expected == [3, 4, 5, 6]
    stream.load_state_dict(state)
    with pytest.raises(TypeError, match="no length"):
        len(stream)
