"""Photographs in a folder, as JPEG files: the dataset usually written against ``ImageFolder``.

The files are cut from the photographs that ship with scikit-learn. They are made once, into a
folder of this user's among the temporary files, and stay there for the next run.
"""

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from fastload import ImageFolder
from fastload.tools.bench.workload import Recipe

_CLASSES = 10
_QUALITY = 90


class PillowFolder(Dataset[tuple[torch.Tensor, int]]):
    """A folder of images as usually read: Pillow decodes, a sample is `(3, height, width)`.

    Args:
        samples: pairs of a path and the number of a class.
    """

    def __init__(self, samples: list[tuple[str, int]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        path, label = self.samples[index]
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), label


def usual(samples: int) -> Recipe:
    """JPEG files of 256x256, read one by one with Pillow."""
    return Recipe(PillowFolder(folder_of(samples, 256, 256).samples[:samples]))


def own(samples: int) -> Recipe:
    """The same files by ``ImageFolder``."""
    return Recipe(Subset(folder_of(samples, 256, 256), range(samples)))


def folder_of(samples: int, height: int, width: int) -> ImageFolder:
    """Make so many files of a size, but for those that are there; return them as a dataset."""
    root = _cache() / f"{width}x{height}"
    photographs: list[Any] = []
    for number in range(samples):
        path = root / f"{number % _CLASSES}" / f"{number:05}.jpg"
        if path.exists():
            continue
        photographs = photographs or _photographs()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(_cut(photographs, number, height, width))
        unfinished.replace(path)  # another process may make the same file, or be killed
    return _first(ImageFolder(root), samples)


def _first(folder: ImageFolder, samples: int) -> ImageFolder:
    """Leave out files that were made for a larger run."""
    folder.samples = [each for each in folder.samples if int(Path(each[0]).stem) < samples]
    folder.targets = [label for _, label in folder.samples]
    return folder


def _cache() -> Path:
    """Return the folder of this user's, which nobody else can write to.

    Raises:
        PermissionError: somebody else has made it.
    """
    folder = Path(tempfile.gettempdir()) / f"fastload-bench-images-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else; set TMPDIR to another folder")
    return folder


def _photographs() -> list[Any]:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def _cut(photographs: list[Any], number: int, height: int, width: int) -> bytes:
    """Cut a random part of these proportions out of a photograph, scale and compress it."""
    photograph = photographs[number % len(photographs)]
    generator = np.random.default_rng(number)
    least = min(photograph.width / width, photograph.height / height)
    scale = float(generator.uniform(0.4, 1.0)) * least
    size = width * scale, height * scale
    left = float(generator.uniform(0, photograph.width - size[0]))
    top = float(generator.uniform(0, photograph.height - size[1]))
    part = photograph.resize((width, height), box=(left, top, left + size[0], top + size[1]))
    file = io.BytesIO()
    part.save(file, format="JPEG", quality=_QUALITY)
    return file.getvalue()
