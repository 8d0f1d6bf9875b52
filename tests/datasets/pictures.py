"""Small pictures for tests, cut from real photographs, and files of them in many formats."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_sample_images


@functools.cache
def photograph(number: int = 0) -> Any:
    """One of scikit-learn's two photographs, 640 x 427."""
    return Image.fromarray(load_sample_images().images[number % 2])


@functools.cache
def picture(height: int, width: int, number: int = 0) -> Any:
    """A part of a photograph, scaled to this size."""
    left, top = 37 * number % 300, 23 * number % 150
    return photograph(number).resize((width, height), box=(left, top, left + 320, top + 240))


def encoded(image: Any, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a file of an image."""
    if kind == "JPEG":
        options = {"quality": 90, **options}
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(height: int = 40, width: int = 48, number: int = 0, **options: Any) -> bytes:
    """A JPEG file of a picture."""
    return encoded(picture(height, width, number), "JPEG", **options)


def by_pillow(content: bytes) -> npt.NDArray[np.uint8]:
    """What torchvision's default loader makes of a file: height, width, 3."""
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image.convert("RGB"))
