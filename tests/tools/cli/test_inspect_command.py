"""`fastload inspect`, on every kind of file, whole and damaged."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastload.datasets import write_arrow, write_parquet
from fastload.datasets.tar_index import build_index, write_index
from fastload.tools.cli import main
from fastload.tools.cli.exits import Exit
from tests.datasets.shards import numbered, write_shard, write_shards

image = pytest.importorskip("PIL.Image")


def inspected(capsys: Any, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON document."""
    code = main(["inspect", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def parts(document: dict[str, Any]) -> dict[str, tuple[str, int]]:
    return {part["name"]: (part["kind"], part["count"]) for part in document["parts"]}


def test_a_shard_is_described(tmp_path: Path, capsys: Any) -> None:
    """Samples, fields, sizes, what a batch has; and that there is no index."""
    (path,) = write_shards(tmp_path, [7])
    code, found = inspected(capsys, path, "--samples", "3")
    assert code == Exit.OK
    assert found["kind"] == "a tar shard"
    assert found["facts"]["samples"] == "7"
    assert parts(found) == {
        "cls": ("number", 7),
        "json": ("JSON", 7),
        "npy": ("array", 7),
        "txt": ("text", 7),
    }
    assert [each["name"] for each in found["samples"]] == ["00000", "00002", "00004"]
    assert found["samples"][1]["values"]["txt"] == "str 'text 2'"
    assert found["samples"][1]["values"]["json"] == "{number: int 2}"
    # Arrays of different length: what a loader says of it.
    assert "no batch" in found["batch"]
    assert "`fastload index" in found["problems"][0]


def test_a_shard_with_an_index_has_a_batch(tmp_path: Path, capsys: Any) -> None:
    """Of equal shapes; nothing is to be changed."""
    shards = [write_shard(tmp_path / f"{n}.tar", numbered(n, n + 1)[:3]) for n in range(4)]
    for path in shards:
        write_index(path, build_index(path, checksums=True))
    code, found = inspected(capsys, str(tmp_path))
    assert (code, found["problems"], found["kind"]) == (Exit.OK, [], "tar shards")
    assert found["facts"]["indices"] == "4 with an index"
    assert found["batch"]["cls"] == "int64 tensor (4,) [0, 1, 2, 3]"


def test_pickles_are_not_read(tmp_path: Path, capsys: Any) -> None:
    """They are shown as bytes; reading them could run code."""
    path = write_shard(tmp_path / "x.tar", [("0.pkl", b"cos\nabort\n(tR."), ("0.cls", b"1")])
    code, found = inspected(capsys, path)
    assert code == Exit.OK
    assert found["samples"][0]["values"]["pkl"] == "14 bytes"
    assert parts(found)["pkl"][0] == "pickle: refused without allow_pickle=True"


def test_damage_is_the_answer(tmp_path: Path, capsys: Any) -> None:
    """Of a shard and of a sample in it; what is whole is shown all the same."""
    members = [("0.cls", b"0"), ("1.jpg", b"no image"), ("2.cls", b"2")]
    path = Path(write_shard(tmp_path / "x.tar", members))
    code, found = inspected(capsys, str(path))
    assert code == Exit.BAD
    assert "1.jpg at offset 1536" in found["samples"][1]["values"]["can't be read"]
    path.write_bytes(path.read_bytes()[:3072])
    code, found = inspected(capsys, str(path))
    assert code == Exit.BAD
    assert "is damaged at offset 3072" in found["problems"][0]
    assert found["facts"]["samples"] == "2"


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_table_is_described(tmp_path: Path, capsys: Any, ending: str) -> None:
    """Rows, columns, types, a batch; nulls are no error."""
    path = tmp_path / f"x.{ending}"
    columns = {"x": np.arange(6, dtype=np.int16), "name": [None, *"abcde"]}
    (write_parquet if ending == "parquet" else write_arrow)(columns, path)
    code, found = inspected(capsys, str(path), "--samples", "2")
    assert code == Exit.OK
    assert found["facts"]["rows"] == "6"
    assert parts(found) == {"x": ("int16", 6), "name": ("string", 6)}
    assert [each["name"] for each in found["samples"]] == ["row 0", "row 3"]
    assert found["samples"][1]["values"] == {"x": "int16 tensor 3", "name": "str 'c'"}
    assert found["batch"]["x"] == "int16 tensor (2,) [0, 1]"
    path.rename(tmp_path / "nameless")
    assert inspected(capsys, str(tmp_path / "nameless"))[1]["facts"]["rows"] == "6"


def save_images(root: Path, names: list[str]) -> None:
    draw = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        image.fromarray(draw.integers(0, 255, (30, 40, 3), np.uint8)).save(root / name)


def test_a_folder_of_images_is_described(tmp_path: Path, capsys: Any) -> None:
    """By class, and without classes."""
    save_images(tmp_path, ["cat/0.png", "dog/0.jpg", "dog/1.jpg"])
    code, found = inspected(capsys, str(tmp_path))
    assert (code, found["problems"]) == (Exit.OK, [])
    assert found["kind"] == "a folder of images in 2 classes"
    assert parts(found) == {"cat": ("image", 1), "dog": ("image", 2)}
    assert found["batch"] == {
        "0": "uint8 tensor (3, 3, 30, 40)",
        "1": "int64 tensor (3,) [0, 1, 1]",
    }
    code, found = inspected(capsys, str(tmp_path / "dog"))
    assert found["kind"] == "a folder of images"
    assert found["batch"] == {"": "uint8 tensor (2, 3, 30, 40)"}
    (tmp_path / "dog" / "2.jpg").write_bytes(b"")
    assert inspected(capsys, str(tmp_path / "dog"))[0] == Exit.BAD


ODD = "<script>alert(1)</script>\x1b[31m[bold]&amp;\u202e"


def test_nothing_of_a_file_reaches_terminal_or_page_as_it_is(tmp_path: Path, capsys: Any) -> None:
    """No escape, no markup: names of members, texts, JSON, paths."""
    folder = tmp_path / "odd\x1b]0;x\x07"
    folder.mkdir()
    pixels = tmp_path / "x.png"
    image.fromarray(np.full((300, 400, 3), 7, np.uint8)).save(pixels)
    members = [
        (f"{ODD.replace('/', '_')}.txt", ODD.encode()),
        (f"{ODD.replace('/', '_')}.json", json.dumps({ODD: [ODD]}).encode()),
        (f"{ODD.replace('/', '_')}.png", pixels.read_bytes()),
    ]
    path = write_shard(folder / "x.tar", members)
    page = tmp_path / "page.html"
    assert main(["inspect", path, "--html", str(page)]) == Exit.OK
    out = capsys.readouterr().out
    assert all(each.isprintable() or each == "\n" for each in out)
    assert "<script>alert(1)<_script>\\x1b[31m[bold]&amp;\\u202e" in out
    text = page.read_text()
    assert "<script" not in text
    assert text.count("data:image/png;base64,") == 1
    assert all(each.isprintable() or each == "\n" for each in text)
    # Well-formed, so nothing of it is markup that should not be.
    tree = ET.fromstring(text.split("\n", 1)[1])
    assert {each.tag for each in tree.iter()} == {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "span", "b"),
        *("table", "tr", "th", "td", "img", "dl", "dt", "dd"),
    }


@pytest.mark.parametrize("kind", ["nothing", "empty folder", "text", "single image"])
def test_what_is_no_dataset_is_a_wrong_argument(tmp_path: Path, capsys: Any, kind: str) -> None:
    """It says why."""
    path, message = {
        "nothing": (tmp_path / "x", "there is nothing at"),
        "empty folder": (tmp_path, "holds neither images nor tar shards"),
        "text": (tmp_path / "y", "is neither a tar shard nor"),
        "single image": (tmp_path / "z.png", "is a single image"),
    }[kind]
    if kind == "text":
        path.write_text("hello")
    if kind == "single image":
        save_images(tmp_path, ["z.png"])
    assert main(["inspect", str(path)]) == Exit.USAGE
    assert message in capsys.readouterr().err
