"""`fastload index`: an index beside each shard, made once, whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastload import TarDataset
from fastload.datasets.tar_index import index_path, load_index
from fastload.tools.cli import main
from fastload.tools.cli.exits import Exit
from tests.datasets.shards import numbered, write_shard, write_shards


def indexed(capsys: Any, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and what is said of each shard."""
    code = main(["index", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)["shards"]


def test_an_index_is_made_once(tmp_path: Path, capsys: Any) -> None:
    """And made anew for a shard that has changed, or if it is asked for."""
    shards = write_shards(tmp_path, [3, 4])
    code, found = indexed(capsys, f"{tmp_path}/shard-{{000..001}}.tar")
    assert code == Exit.OK
    assert [each["state"] for each in found] == ["made", "made"]
    assert [each["samples"] for each in found] == [3, 4]
    assert found[0]["fields"] == ["cls", "json", "npy", "txt"]
    assert [each["index"] for each in found] == [index_path(each) for each in shards]
    assert len(TarDataset(shards, index="require")) == 7

    write_shard(shards[1], numbered(0, 9))
    # A shell gives the indices too, for a star.
    code, found = indexed(capsys, *map(str, sorted(tmp_path.iterdir())))
    assert [each["state"] for each in found] == ["current", "made"]
    assert len(TarDataset(shards)) == 12

    Path(index_path(shards[0])).write_bytes(b"damaged")
    assert [each["state"] for each in indexed(capsys, *shards)[1]] == ["made", "current"]
    assert [each["state"] for each in indexed(capsys, "--force", *shards)[1]] == ["made", "made"]
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        Path(each).name for shard in shards for each in (shard, index_path(shard))
    )


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_damaged_shard_gets_none(tmp_path: Path, capsys: Any, suffix: str) -> None:
    """The others get theirs; the exit code tells it."""
    shards = write_shards(tmp_path, [3, 4, 5], suffix=suffix)
    Path(shards[1]).write_bytes(Path(shards[1]).read_bytes()[:-700])
    if suffix == "tar":
        Path(shards[1]).write_bytes(Path(shards[1]).read_bytes()[:5000])
    code, found = indexed(capsys, *shards)
    assert code == Exit.BAD
    assert [each["state"] for each in found] == ["made", "damaged", "made"]
    assert shards[1] in found[1]["error"]
    assert load_index(shards[1]) is None
    assert [load_index(shards[number]).samples for number in (0, 2)] == [3, 5]


def test_the_table_has_no_escapes_of_files(tmp_path: Path, capsys: Any) -> None:
    """Names of shards and fields are shown as they are, never obeyed."""
    name = "a\x1b[31m[bold].tar"
    path = write_shard(tmp_path / name, [("1.\x1b]0;title\x07", b"x")])
    assert main(["index", path]) == Exit.OK
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "a\\x1b[31m[bold].tar" in out
    assert "\\x1b]0;title\\x07" in out
    assert "1 samples in 1 shards" in out


def test_what_is_not_there_is_a_wrong_argument(tmp_path: Path, capsys: Any) -> None:
    """So is a URL."""
    assert main(["index", str(tmp_path / "x.tar")]) == Exit.USAGE
    assert "1 of 1 shards are missing" in capsys.readouterr().err
    assert main(["index", "https://example.com/x.tar"]) == Exit.USAGE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path, capsys: Any) -> None:
    """With its own exit code."""
    shards = write_shards(tmp_path, [1])
    tmp_path.chmod(0o500)
    try:
        assert main(["index", *shards]) == Exit.ENVIRONMENT
    finally:
        tmp_path.chmod(0o700)
    assert index_path(shards[0]) in capsys.readouterr().err
