"""Tar shards for tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def write_shard(
    path: Path | str,
    members: Iterable[tuple[str, bytes]],
    *,
    mode: str = "w",
    form: int = tarfile.PAX_FORMAT,
) -> str:
    """Write members in their order, with Python's tarfile; return the path."""
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def numbered(first: int, end: int, *, folder: str = "") -> list[tuple[str, bytes]]:
    """Members of samples with a text, a class, a JSON document and an array."""
    members = []
    for number in range(first, end):
        array = io.BytesIO()
        np.save(array, np.full(3 + number % 4, number, np.int16))
        members += [
            (f"{folder}{number:05d}.txt", f"text {number}".encode()),
            (f"{folder}{number:05d}.cls", b"%d" % number),
            (f"{folder}{number:05d}.json", json.dumps({"number": number}).encode()),
            (f"{folder}{number:05d}.npy", array.getvalue()),
        ]
    return members


def write_shards(folder: Path, counts: Iterable[int], *, suffix: str = "tar") -> list[str]:
    """Write shards of so many numbered samples each."""
    paths, first = [], 0
    mode = "w:gz" if suffix.endswith("gz") else "w"
    for shard, count in enumerate(counts):
        path = folder / f"shard-{shard:03d}.{suffix}"
        paths.append(write_shard(path, numbered(first, first + count), mode=mode))
        first += count
    return paths
