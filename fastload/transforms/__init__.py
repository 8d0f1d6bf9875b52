"""Augmentations of images, by torch's kernels and drawn from torch's generator.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an image of any dataset: a tensor ``(channels, height, width)``, an array
``(height, width, channels)``, or a PIL image.
Gives: a tensor ``(channels, height, width)``.

They have the names, arguments and random draws of torchvision's, which need not be installed.
"""

from fastload.transforms.compose import Compose
from fastload.transforms.geometry import (
    CenterCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from fastload.transforms.values import Normalize, ToFloat

__all__ = [
    "CenterCrop",
    "Compose",
    "Normalize",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "Resize",
    "ToFloat",
]
