"""Damage tar shards and read them: what a child of ``test_damage_of_tar.py`` does.

    python -m tests.datasets.damage_tar 125 plain indexed gzip forged

Prints one line a file: its kind, its seed and what came of it. ``indexed`` shards are damaged
behind the back of their index: size and time stay. ``forged`` ones have right header checksums.
"""

from __future__ import annotations

import os
import random
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from fastload.datasets import TarStream
from fastload.datasets.tar_index import build_index, index_path, write_index
from fastload.errors import CorruptDataError
from tests.datasets.damage import damage
from tests.datasets.shards import numbered, write_shard

KINDS = ("plain", "indexed", "gzip", "forged")
SAMPLES = 25


def read(path: Path) -> list[dict[str, Any]]:
    return list(TarStream(str(path), decode=False))


def shape_of(samples: list[dict[str, Any]]) -> list[Any]:
    """Keys, fields and sizes: what headers say."""
    return [
        (sample["__key__"], [(name, len(value)) for name, value in sample.items()])
        for sample in samples
    ]


def forge(content: bytes, seed: int) -> bytes:
    """Change bytes of one header and make its checksum right."""
    draw = random.Random(seed)
    damaged = bytearray(content)
    headers = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    at = draw.choice(headers)
    for _ in range(draw.randint(1, 3)):
        place = draw.choice([124, 135, 156, 157, 257, 345, draw.randrange(512)])
        damaged[at + place] = draw.choice([0, 0x20, 0x30, 0x37, 0x80, 0xFF, *b"xgLKS5", 0x39])
    damaged[at + 148 : at + 156] = b" " * 8
    damaged[at + 148 : at + 156] = b"%06o\0 " % (sum(damaged[at : at + 512]) & 0o777777)
    return bytes(damaged)


def outcome_of(kind: str, path: Path, expected: list[dict[str, Any]]) -> str:
    """What came of reading a damaged shard."""
    try:
        found = read(path)
    except CorruptDataError as error:
        return "refused" if path.name in str(error) else f"UNNAMED {error}"
    except ValueError as error:
        known = "another state of the shard" in str(error) or "sparse" in str(error)
        return "refused" if known and path.name in str(error) else f"VALUEERROR {error}"
    except Exception as error:  # any other is told by the test
        return f"{type(error).__name__.upper()} {error}"
    for sample in (*found, *expected):
        sample.pop("__url__", None)
    if found == expected:
        return "unchanged"
    if kind == "plain" and shape_of(found) == shape_of(expected):
        return "content"  # of which tar has no checksum
    return "other" if kind == "forged" else "WRONG"


def damage_many(kind: str, files: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.tar"
        mode = "w:gz" if kind == "gzip" else "w"
        write_shard(whole, numbered(0, SAMPLES), mode=mode, form=tarfile.USTAR_FORMAT)
        content, expected = whole.read_bytes(), read(whole)
        for seed in range(files):
            print(kind, seed, end=" ", flush=True)
            path = Path(folder) / f"{seed}.tar"
            path.write_bytes(content)
            if kind == "indexed":
                write_index(str(path), build_index(str(path), checksums=True))
            status = path.stat()
            change = forge if kind == "forged" else damage
            path.write_bytes(change(content, seed))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            print(outcome_of(kind, path, expected).replace("\n", " "), flush=True)
            Path(index_path(str(path))).unlink(missing_ok=True)
            path.unlink()


if __name__ == "__main__":
    for given in sys.argv[2:]:
        damage_many(given, int(sys.argv[1]))
