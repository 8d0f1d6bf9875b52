"""Change the values of images: to floats, and to mean 0 and deviation 1.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an image: a tensor ``(channels, height, width)``, an array or a PIL image.
Gives: a float32 tensor ``(channels, height, width)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastload.transforms.inputs import as_image_tensor

_WHITE = 255


class ToFloat:
    """Make float32 of an image: uint8 from 0 to 255 becomes 0 to 1; floats stay as they are.

    The values are those of torchvision's ``ToTensor``, to the last bit.

    Raises:
        TypeError: When called: the image has integers that are not uint8.

    Example:
        >>> import torch
        >>> ToFloat()(torch.tensor([[[0, 51, 255]]], dtype=torch.uint8))
        tensor([[[0.0000, 0.2000, 1.0000]]])
    """

    takes: ClassVar[str] = "tensor"

    def __call__(self, image: Any) -> Tensor:
        """Return the image as float32."""
        return _as_float(as_image_tensor(image))

    def __repr__(self) -> str:
        return "ToFloat()"


class Normalize:
    """Subtract a mean and divide by a deviation, of each channel.

    An image of uint8 is made into floats from 0 to 1 first, as by ``ToFloat``.

    Args:
        mean: The mean of each channel, on a scale from 0 to 1.
        std: The deviation of each channel.

    Raises:
        ValueError: There are not as many means as deviations, or a deviation is 0.

    Example:
        >>> import torch
        >>> Normalize([0.5], [0.5])(torch.tensor([[[0, 255]]], dtype=torch.uint8))
        tensor([[[-1.,  1.]]])
    """

    takes: ClassVar[str] = "tensor"

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or not all(std):
            raise ValueError(
                f"mean and std have a number for each channel, and std no 0, but got "
                f"{list(mean)} and {list(std)}"
            )
        self.mean = list(mean)
        self.std = list(std)
        self._mean = torch.tensor(self.mean, device="cpu")[:, None, None]
        self._std = torch.tensor(self.std, device="cpu")[:, None, None]

    def __call__(self, image: Any) -> Tensor:
        """Return the image, normalized."""
        image = as_image_tensor(image)
        if len(image) != len(self.mean):
            raise ValueError(
                f"Normalize has {len(self.mean)} channels, but the image has {len(image)}"
            )
        return _as_float(image).sub(self._mean).div_(self._std)

    def __repr__(self) -> str:
        return f"Normalize({self.mean}, {self.std})"


def _as_float(image: Tensor) -> Tensor:
    if image.is_floating_point():
        return image.to(torch.float32)
    if image.dtype is not torch.uint8:
        raise TypeError(f"an image has values of uint8 or floats, but got {image.dtype}")
    # In rows of channels, as batches are: what comes of a decoder has its channels last.
    return image.to(torch.float32, memory_format=torch.contiguous_format).div_(_WHITE)
