"""Images: large, small, as JPEG, and handwritten digits."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from fastload.tools.bench.workload import Recipe

_POOL = 64
_CLASSES = 1_000


class PooledImages(Dataset[tuple[torch.Tensor, int]]):
    """Ready-made images, handed out in turn: sample `i` is image `i` modulo the pool's size."""

    def __init__(self, pool: torch.Tensor, samples: int) -> None:
        self.pool = pool
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.pool[index % len(self.pool)], index % _CLASSES


class JpegImages(Dataset[tuple[torch.Tensor, int]]):
    """JPEG files in memory, decoded with Pillow at every access: `(3, height, width)` of uint8."""

    def __init__(self, files: Sequence[bytes], samples: int) -> None:
        self.files = files
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        with Image.open(io.BytesIO(self.files[index % len(self.files)])) as image:
            pixels = np.array(image)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), index % _CLASSES


class RepeatedDigits(Dataset[tuple[npt.NDArray[np.float32], int]]):
    """Handwritten digits as arrays `(1, 8, 8)` in [0, 1], repeated up to the number of samples."""

    def __init__(
        self, images: npt.NDArray[np.float32], labels: Sequence[int], samples: int
    ) -> None:
        self.images = images
        self.labels = labels
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], int]:
        row = index % len(self.labels)
        return self.images[row], self.labels[row]


def float32(samples: int) -> Recipe:
    """Images of 3x224x224 as float32."""
    generator = torch.Generator().manual_seed(0)
    return Recipe(PooledImages(torch.rand(_POOL, 3, 224, 224, generator=generator), samples))


def uint8(samples: int) -> Recipe:
    """Images of 3x224x224 as uint8."""
    generator = torch.Generator().manual_seed(0)
    pool = torch.randint(0, 256, (_POOL, 3, 224, 224), generator=generator, dtype=torch.uint8)
    return Recipe(PooledImages(pool, samples))


def small(samples: int) -> Recipe:
    """Images of 3x32x32 as float32."""
    generator = torch.Generator().manual_seed(0)
    return Recipe(PooledImages(torch.rand(1_024, 3, 32, 32, generator=generator), samples))


def jpeg(samples: int) -> Recipe:
    """JPEG files of 256x256, cut from scikit-learn's photographs."""
    return Recipe(JpegImages(_make_jpegs(), samples))


def digits(samples: int) -> Recipe:
    """Handwritten digits, shuffled."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images[:, None] / 16).astype(np.float32)
    return Recipe(
        RepeatedDigits(images, [int(label) for label in bunch.target], samples), {"shuffle": True}
    )


def _make_jpegs(count: int = _POOL, side: int = 256, quality: int = 90) -> list[bytes]:
    """Cut random squares out of scikit-learn's photographs and compress them."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    generator = np.random.default_rng(0)
    files = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        edge = int(generator.integers(128, min(photograph.size)))
        left = int(generator.integers(0, photograph.width - edge + 1))
        top = int(generator.integers(0, photograph.height - edge + 1))
        square = photograph.resize((side, side), box=(left, top, left + edge, top + edge))
        file = io.BytesIO()
        square.save(file, format="JPEG", quality=quality)
        files.append(file.getvalue())
    return files
