"""Resize images by torch.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an image, as a tensor or as an array.
Gives: the image in another size.

torch's antialiased bilinear kernel for uint8 in channels-last memory takes a third to a sixth of
the time of Pillow's, copies counted, and differs from it by 2 of 255 at most, by 1 as a rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def resize_tensor(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(channels, height, width)`` to another height and width."""
    if tuple(image.shape[-2:]) == size:
        return image
    return _interpolate(image[None], size)[0]


def resize_pixels(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize ``(height, width, 3)`` to another height and width."""
    # With these strides torch knows the format as channels last, and writes its result in it.
    resized = _interpolate(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2), size)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy()[0])


def _interpolate(images: Tensor, size: tuple[int, int]) -> Tensor:
    resize: Any = torch.nn.functional.interpolate
    resized: Tensor = resize(images, size=size, mode="bilinear", antialias=True)
    return resized
