"""Archives are read to their last byte, or refused: names and sizes as tarfile's, no silent end."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.datasets.tar_files import expand_braces, find_shards, open_shard
from fastload.datasets.tar_format import read_content, read_members
from fastload.datasets.tar_grouping import read_samples, split_name
from fastload.errors import CorruptDataError
from tests.datasets.shards import write_shard

LONG = "a" * 90 + "/" + "b" * 120 + "/" + "ü" * 60 + ".txt"
NAMES = ["x.txt", "ü.txt", LONG, "d" * 100, "e" * 99 + "/f.txt", "p" * 120 + "/" + "q" * 90]


def members_of(path: Path | str) -> list[tuple[str, bytes]]:
    """Name and content of each member, as we read them."""
    source = open_shard(str(path))
    return [(m.name, read_content(source, m.name, m.offset, m.size)) for m in read_members(source)]


def members_by_tarfile(path: Path | str) -> list[tuple[str, bytes]]:
    """Name and content of each member, as Python reads them."""
    with tarfile.open(path) as archive:
        return [
            (member.name, archive.extractfile(member).read())  # type: ignore[union-attr]
            for member in archive
            if member.isreg()
        ]


FORMS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_members_are_those_that_tarfile_reads(tmp_path: Path, form: int, mode: str) -> None:
    """Long names too, in each format, packed or not."""
    names = [name for name in NAMES if form != tarfile.USTAR_FORMAT or name != LONG]
    content = [(name, bytes([number]) * 700 * number) for number, name in enumerate(names)]
    path = write_shard(tmp_path / "x.tar", content, form=form, mode=mode)
    assert members_of(path) == members_by_tarfile(path) == content


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "posix", "ustar", "v7"])
def test_members_are_those_that_gnu_tar_wrote(tmp_path: Path, form: str) -> None:
    """Each of its formats."""
    folder = tmp_path / "data"
    folder.mkdir()
    names = ["a.txt", "n" * 90 + ".txt"] + (["m" * 180 + ".txt"] if form[0] in "gop" else [])
    for name in names:
        (folder / name).write_bytes(name.encode() * 50)
    path = tmp_path / "x.tar"
    command = ["tar", f"--format={form}", "-cf", str(path), "-C", str(folder), *names]
    subprocess.run(command, check=True)
    assert members_of(path) == [(name, name.encode() * 50) for name in names]


def test_what_is_no_regular_file_is_left_out(tmp_path: Path) -> None:
    """Folders, links and pipes, as webdataset leaves them out; they are counted."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("d", b"5"), ("s", b"2"), ("l", b"1"), ("p", b"6")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "x.txt"
            archive.addfile(member)
        member = tarfile.TarInfo("x.txt")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"ab"))
    counts: dict[str, int] = {}
    assert [m.name for m in read_members(open_shard(str(path)), counts)] == ["x.txt"]
    assert counts == {"others": 4}


def test_names_that_are_not_unicode_are_read(tmp_path: Path) -> None:
    """As tarfile reads them, with surrogates."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        archive.addfile(tarfile.TarInfo(b"\xff\xfe.txt".decode("utf-8", "surrogateescape")))
    assert members_of(path) == members_by_tarfile(path)
    assert members_of(path)[0][0].encode("utf-8", "surrogateescape") == b"\xff\xfe.txt"


def test_sizes_in_binary_and_in_extended_headers_are_read(tmp_path: Path) -> None:
    """GNU's numbers of 8 GiB and more, and pax's; sums of signed bytes."""
    member = tarfile.TarInfo("ü.txt")
    member.size = 5
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\x80" + (5).to_bytes(11, "big")
    signed = sum(byte - 256 if byte > 127 else byte for byte in block)
    signed += 8 * 32 - sum(block[148:156])
    block[148:156] = b"%06o\0 " % signed
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(block) + b"12345".ljust(512, b"\0") + bytes(1024))
    assert members_of(path) == members_by_tarfile(path) == [("ü.txt", b"12345")]

    member.pax_headers = {"size": "3", "comment": "of no interest\n"}
    content = member.tobuf(tarfile.PAX_FORMAT) + b"123".ljust(512, b"\0") + bytes(1024)
    path.write_bytes(content)
    assert members_of(path) == members_by_tarfile(path) == [("ü.txt", b"123")]


@pytest.mark.parametrize("form", ["0.0", "0.1", "1.0", "gnu"])
def test_sparse_members_are_refused(tmp_path: Path, form: str) -> None:
    """In each of the ways in which GNU tar writes them."""
    with (tmp_path / "hole.txt").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x")
    option = "--format=gnu" if form == "gnu" else f"--sparse-version={form}"
    posix = [] if form == "gnu" else ["--format=posix"]
    command = ["tar", *posix, option, "--sparse", "-cf", "x.tar", "hole.txt"]
    subprocess.run(command, check=True, cwd=tmp_path)
    with pytest.raises(ValueError, match=r"'hole.txt'.* at offset \d+ is a sparse file"):
        members_of(tmp_path / "x.tar")


def make_bytes() -> bytes:
    """An archive of three members, the second of two blocks."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, size in (("a.txt", 100), ("b.txt", 1000), ("c.txt", 0)):
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(name.encode() * (size // 5)))
    return file.getvalue()


WHOLE = make_bytes()
DAMAGED = {
    "empty": (b"", 0, "it is cut off"),
    "no archive": (b"x" * 10_000, 0, "checksum of a header is wrong"),
    "cut in a header": (WHOLE[:1200], 1024, "it is cut off"),
    "cut in a member": (WHOLE[:2000], 1024, "'b.txt' has 1000 bytes, but the file ends 464 bytes"),
    "cut behind a member": (WHOLE[:1024], 1024, "the mark of its end is missing"),
    "cut before the end": (WHOLE[:3072], 3072, "the mark of its end is missing"),
    "a header of zeros": (WHOLE[:1024] + bytes(512) + WHOLE[1536:], 1536, "more behind the mark"),
    "joined": (WHOLE + WHOLE, len(WHOLE), "more behind the mark of its end.*joined"),
    "a flipped bit": (WHOLE[:1030] + b"\x81" + WHOLE[1031:], 1024, "checksum of a header is wrong"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(("content", "offset", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_told_with_path_and_offset(
    tmp_path: Path, content: bytes, offset: int, message: str, packed: bool
) -> None:
    """Never an end that looks like the right one, as tarfile gives for half of these."""
    path = tmp_path / "x.tar"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(CorruptDataError) as caught:
        members_of(path)
    assert caught.value.path == str(path)
    if packed and "but the file ends" in message:  # which is not known before it is read
        assert caught.match("'b.txt' has 1000 bytes, but only 464 follow")
    else:
        assert caught.match(message)
        assert caught.value.offset == offset


@pytest.mark.parametrize("cut", [1, 8, 9, 100])
def test_a_gzip_file_that_is_cut_is_told(tmp_path: Path, cut: int) -> None:
    """Also where only its checksum is missing, behind all members."""
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(WHOLE)[:-cut])
    with pytest.raises(CorruptDataError, match="its gzip data is damaged"):
        members_of(path)


def test_a_size_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    """A size of 2 GiB in a packed archive of a few bytes is seen to be wrong."""
    member = tarfile.TarInfo("x.txt")
    member.size = 1 << 31
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf() + bytes(2048)))
    with pytest.raises(CorruptDataError, match="has 2147483648 bytes, but only 2048 follow"):
        members_of(path)


def test_a_sample_is_given_once_it_is_known_to_be_whole(tmp_path: Path) -> None:
    """Of a shard that was cut between the members of a sample, the sample is not given."""
    members = [("1.txt", b"x"), ("1.cls", b"1"), ("2.txt", b"y"), ("2.cls", b"2")]
    path = Path(write_shard(tmp_path / "x.tar", members, form=tarfile.USTAR_FORMAT))
    path.write_bytes(path.read_bytes()[: 3 * 1024])
    found = []
    samples = read_samples(open_shard(str(path)))
    with pytest.raises(CorruptDataError, match="the mark of its end is missing"):
        while True:
            found.append(next(samples).key)
    assert found == ["1"]


def test_a_field_that_comes_twice_is_refused(tmp_path: Path) -> None:
    """Names differ by case only, or not at all."""
    path = write_shard(tmp_path / "x.tar", [("1.txt", b"x"), ("1.TXT", b"y")])
    with pytest.raises(CorruptDataError, match="the sample '1' has the field 'txt' twice"):
        list(read_samples(open_shard(path)))


@given(st.text("ab./_\n", max_size=12))
def test_names_are_split_as_by_webdataset(name: str) -> None:
    """For any name."""
    from_package = pytest.importorskip("webdataset.tariterators")
    key, field = from_package.base_plus_ext(name)
    if split_name(name) is None:
        assert key is None or name.startswith("__")
    else:
        assert split_name(name) == (key, field)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x", ["x"]),
        ("", [""]),
        ("s-{08..11}", ["s-08", "s-09", "s-10", "s-11"]),
        ("{000..002}", ["000", "001", "002"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{0..9..4}", ["0", "4", "8"]),
        ("{a,b}-{0..1}", ["a-0", "a-1", "b-0", "b-1"]),
        ("{a..c}", ["a", "b", "c"]),
        ("{x}", ["{x}"]),
        ("{a,}", ["a", ""]),
        ("{-1..1}", ["-1", "0", "1"]),
    ],
)
def test_braces_stand_for_what_they_do_in_a_shell(pattern: str, names: list[str]) -> None:
    """And in webdataset, which uses braceexpand."""
    assert expand_braces(pattern) == names
    try:
        import braceexpand
    except ImportError:
        return
    assert list(braceexpand.braceexpand(pattern)) == names


def test_an_interrupted_read_of_a_packed_shard_moves_nothing(tmp_path: Path) -> None:
    """What was unpacked and dropped then would be missing from whatever is read next."""
    content = random.Random(0).randbytes(1 << 20)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(content))
    source = open_shard(str(path))
    assert source.read(0, 1000) == content[:1000]
    reader = source._unpacked._buffer.raw  # type: ignore[union-attr]
    decompressor = reader._decompressor

    class Interrupted:
        """A handler raises after the call, before its result is stored."""

        def decompress(self, *arguments: Any) -> bytes:
            decompressor.decompress(*arguments)
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> Any:
            return getattr(decompressor, name)

    reader._decompressor = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        source.read(500_000, 1000)
    reader._decompressor = decompressor
    assert source.read(700_000, 1000) == content[700_000:701_000]


def test_a_folder_is_no_shard(tmp_path: Path) -> None:
    """It says what to name."""
    (tmp_path / "shards.tar").mkdir()
    for name in (tmp_path / "shards.tar", tmp_path / "*.tar"):
        with pytest.raises(FileNotFoundError, match=r"is a folder; name the shards in it"):
            find_shards(name)


def test_names_are_looked_up(tmp_path: Path) -> None:
    """Patterns, in order; what is missing, or no file, is told."""
    for name in ("b.tar", "a.tar", "a.tar.index.npz", "{odd}.tar"):
        (tmp_path / name).touch()
    assert find_shards(f"{tmp_path}/?.tar*") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert find_shards([tmp_path / "b.tar", f"file:{tmp_path}/a.tar"]) == [
        f"{tmp_path}/b.tar",
        f"{tmp_path}/a.tar",
    ]
    assert find_shards(f"{tmp_path}/{{b,a}}.tar")[0] == f"{tmp_path}/b.tar"
    assert find_shards(f"{tmp_path}/{{odd}}.tar") == [f"{tmp_path}/{{odd}}.tar"]
    with pytest.raises(FileNotFoundError, match="1 of 2 shards are missing"):
        find_shards(f"{tmp_path}/{{a,c}}.tar")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        find_shards(f"{tmp_path}/*.tgz")
    with pytest.raises(FileNotFoundError, match="no shard was named"):
        find_shards([])
    with pytest.raises(ValueError, match="is a URL or a command"):
        find_shards("pipe:cat x.tar")
    with pytest.raises(ValueError, match="braces within braces"):
        find_shards("{a,{b,c}}.tar")
    for wrong in (3, {"a.tar": 1}, [b"a.tar"]):
        with pytest.raises(TypeError, match="path"):
            find_shards(wrong)
