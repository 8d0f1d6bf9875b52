"""Photographs in tar shards: the stream usually written over Python's tarfile against `TarStream`.

The shards hold the JPEG files of the workload `image-folder`, with the number of their class, and
lie beside them. They are made once.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from fastload import TarStream
from fastload.tools.bench.workload import Recipe
from fastload.tools.bench.workloads.image_files import folder_of

_SHARDS = 8
FIELDS = ["jpg", "cls"]


class TarfileShards(IterableDataset[tuple[torch.Tensor, int]]):
    """Shards as usually read without a library: tarfile unpacks, Pillow decodes.

    Args:
        paths: of the shards, of which each worker reads some.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        from PIL import Image

        info = get_worker_info()
        paths = self.paths if info is None else self.paths[info.id :: info.num_workers]
        for path in paths:
            with tarfile.open(path, "r|") as archive:
                pixels: torch.Tensor | None = None
                for member in archive:
                    file = archive.extractfile(member)
                    assert file is not None
                    if member.name.endswith(".jpg"):
                        with Image.open(io.BytesIO(file.read())) as image:
                            array = np.array(image.convert("RGB"))
                        pixels = torch.from_numpy(array).permute(2, 0, 1).contiguous()
                    else:
                        assert pixels is not None
                        yield pixels, int(file.read())


def usual(samples: int) -> Recipe:
    """Shards of JPEG files of 256x256, read by tarfile and Pillow."""
    return Recipe(TarfileShards(shards_of(samples, 256, 256)))


def own(samples: int) -> Recipe:
    """The same shards by `TarStream`, without indices, so that workers get the same shards."""
    return Recipe(TarStream(shards_of(samples, 256, 256), fields=FIELDS, index="ignore"))


def shards_of(samples: int, height: int, width: int) -> list[str]:
    """Make shards of so many photographs of a size, but for those that are there."""
    folder = folder_of(samples, height, width)
    files = sorted(folder.samples, key=lambda pair: Path(pair[0]).stem)
    root = Path(folder.root).parent / f"shards-{width}x{height}-{samples}"
    root.mkdir(exist_ok=True)
    paths = []
    for number in range(_SHARDS):
        part = slice(samples * number // _SHARDS, samples * (number + 1) // _SHARDS)
        path = root / f"{number:02}.tar"
        if not path.exists():
            unfinished = path.with_suffix(f".{os.getpid()}")
            _write(unfinished, files[part])
            unfinished.replace(path)  # another process may make the same shard, or be killed
        paths.append(str(path))
    return paths


def _write(path: Path, files: list[tuple[str, int]]) -> None:
    with tarfile.open(path, "w") as archive:
        for file, label in files:
            image = Path(file)
            for suffix, content in ((".jpg", image.read_bytes()), (".cls", b"%d" % label)):
                member = tarfile.TarInfo(image.stem + suffix)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
