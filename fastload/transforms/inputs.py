"""Give a transform the image in the form that it takes, and take any form ourselves.

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
from torch import Tensor

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
    if takes is None and _is_of_albumentations(transform):
        by_name: Any = transform
        return by_name(image=pixels)["image"]
    if takes not in {None, "pil"}:
        raise ValueError(f"takes of {transform!r} is one of {FORMS}, but got {takes!r}")
    from PIL import Image

    return transform(Image.fromarray(pixels))


def _is_of_albumentations(transform: object) -> bool:
    """Return whether this is a transform of albumentations, which is called by keyword."""
    library = sys.modules.get("albumentations")
    if library is None:
        return False
    return isinstance(transform, (library.BasicTransform, library.BaseCompose))


def as_image_tensor(image: Any) -> Tensor:
    """Return an image as a tensor ``(channels, height, width)``: a view where that is possible.

    Args:
        image: Such a tensor, an array ``(height, width, channels)`` or ``(height, width)``, or a
            PIL image.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(image, Tensor):
        if image.dim() == 3:
            return image
        raise TypeError(
            f"an image is a tensor (channels, height, width), but got one of shape "
            f"{tuple(image.shape)}; transforms are for samples, before they are a batch"
        )
    if not isinstance(image, np.ndarray):
        if not hasattr(image, "getbands"):
            raise TypeError(
                f"an image is a tensor, an array or a PIL image, but got a {type(image).__name__}"
            )
        image = np.array(image)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3:
        raise TypeError(
            f"an image is an array (height, width, channels), but got one of shape {image.shape}"
        )
    return torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)
