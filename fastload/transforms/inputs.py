"""Give a transform the image in the form that it takes.

Runs in: worker (consumer with ``num_workers=0``).
Takes: decoded pixels, and any callable.
Gives: what the callable returns.

A transform says what it takes by an attribute ``takes``; one without gets a PIL image, as from
torchvision's datasets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

FORMS = ("pil", "array", "tensor")


def call_transform(transform: Callable[[Any], Any], pixels: npt.NDArray[np.uint8]) -> Any:
    """Call a transform with pixels ``(height, width, 3)`` of uint8, in the form it takes.

    Raises:
        ValueError: Its attribute ``takes`` is none of ``"pil"``, ``"array"`` and ``"tensor"``.
        Exception: Whatever it raises.
    """
    takes = getattr(transform, "takes", None)
    if takes == "tensor":
        return transform(torch.from_numpy(pixels).permute(2, 0, 1))
    if takes == "array":
        return transform(pixels)
    if takes is None and is_of_albumentations(transform):
        by_name: Any = transform
        return by_name(image=pixels)["image"]
    if takes not in {None, "pil"}:
        raise ValueError(f"takes of {transform!r} is one of {FORMS}, but got {takes!r}")
    from PIL import Image

    return transform(Image.fromarray(pixels))


def is_of_albumentations(transform: object) -> bool:
    """Return whether this is a transform of albumentations, which is called by keyword."""
    library = sys.modules.get("albumentations")
    if library is None:
        return False
    return isinstance(transform, (library.BasicTransform, library.BaseCompose))
