"""Cut out, resize and mirror images.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an image: a tensor ``(channels, height, width)``, an array or a PIL image.
Gives: a tensor ``(channels, height, width)`` of the same dtype.

What is random is drawn from torch's generator in the order of torchvision's transforms of the same
names, so equal seeds give equal crops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastload.transforms.inputs import as_image_tensor
from fastload.transforms.resampling import resize_tensor

_TRIES = 10
"""So often torchvision draws a crop that may be too large before it takes the middle."""


class Resize:
    """Resize an image: bilinear, antialiased.

    Args:
        size: Height and width, or one number for the shorter side; the other keeps the proportion.

    Raises:
        ValueError: ``size`` is not positive.

    Example:
        >>> import torch
        >>> Resize(24)(torch.zeros(3, 48, 96, dtype=torch.uint8)).shape
        torch.Size([3, 24, 48])
    """

    takes: ClassVar[str] = "tensor"

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = size if isinstance(size, int) else _pair(size)
        _pair(size)

    def __call__(self, image: Any) -> Tensor:
        """Return the image in its new size."""
        image = as_image_tensor(image)
        size = self.size
        if isinstance(size, int):
            height, width = image.shape[-2:]
            longer = int(size * max(height, width) / min(height, width))
            size = (size, longer) if height <= width else (longer, size)
        return resize_tensor(image, size)

    def __repr__(self) -> str:
        return f"Resize({self.size})"


class CenterCrop:
    """Cut out the middle of an image; where it is smaller, it is padded with zeros.

    Args:
        size: Height and width, or one number for both.

    Raises:
        ValueError: ``size`` is not positive.

    Example:
        >>> import torch
        >>> CenterCrop(24)(torch.zeros(3, 48, 96, dtype=torch.uint8)).shape
        torch.Size([3, 24, 24])
    """

    takes: ClassVar[str] = "tensor"

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = _pair(size)

    def __call__(self, image: Any) -> Tensor:
        """Return the middle of the image, a view of it where it is large enough."""
        whole = as_image_tensor(image)
        height, width = self.size
        missing = [max(height - whole.shape[-2], 0), max(width - whole.shape[-1], 0)]
        if any(missing):
            above, before = missing[0] // 2, missing[1] // 2
            padding = (before, missing[1] - before, above, missing[0] - above)
            whole = torch.nn.functional.pad(whole, padding)
        top = round((whole.shape[-2] - height) / 2)
        left = round((whole.shape[-1] - width) / 2)
        return whole[:, top : top + height, left : left + width]

    def __repr__(self) -> str:
        return f"CenterCrop({self.size})"


class RandomResizedCrop:
    """Cut out a part of random size and proportion, and resize it.

    Args:
        size: Height and width of what comes out, or one number for both.
        scale: Least and largest share of the area that is cut out, drawn evenly.
        ratio: Least and largest width over height, drawn evenly on a logarithmic scale.

    Raises:
        ValueError: ``size`` is not positive, or ``scale`` or ``ratio`` is no range of positive
            numbers.

    Example:
        >>> import torch
        >>> RandomResizedCrop(24)(torch.zeros(3, 48, 96, dtype=torch.uint8)).shape
        torch.Size([3, 24, 24])
    """

    takes: ClassVar[str] = "tensor"

    def __init__(
        self,
        size: int | Sequence[int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        self.size = _pair(size)
        for name, (low, high) in (("scale", scale), ("ratio", ratio)):
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} is a range of positive numbers, but got {(low, high)}")
        self.scale = scale
        self.ratio = ratio

    def __call__(self, image: Any) -> Tensor:
        """Return a part of the image, resized."""
        image = as_image_tensor(image)
        top, left, height, width = self.draw(*image.shape[-2:])
        return resize_tensor(image[:, top : top + height, left : left + width], self.size)

    def draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Draw where to cut from an image of this size: top, left, height, width."""
        low, high = torch.log(torch.tensor(self.ratio)).tolist()
        for _ in range(_TRIES):
            area = height * width * torch.empty(1).uniform_(*self.scale).item()
            ratio = torch.exp(torch.empty(1).uniform_(low, high)).item()
            cut_width, cut_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < cut_width <= width and 0 < cut_height <= height:
                top = int(torch.randint(0, height - cut_height + 1, (1,)).item())
                left = int(torch.randint(0, width - cut_width + 1, (1,)).item())
                return top, left, cut_height, cut_width
        return self._middle(height, width)

    def _middle(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the largest part in the middle whose proportions are allowed."""
        narrowest, widest = min(self.ratio), max(self.ratio)
        cut_height, cut_width = height, width
        if width / height < narrowest:
            cut_height = round(width / narrowest)
        elif width / height > widest:
            cut_width = round(height * widest)
        return (height - cut_height) // 2, (width - cut_width) // 2, cut_height, cut_width

    def __repr__(self) -> str:
        return f"RandomResizedCrop({self.size}, scale={self.scale}, ratio={self.ratio})"


class RandomHorizontalFlip:
    """Mirror left and right, at random.

    Args:
        p: How likely that is.

    Raises:
        ValueError: It is no probability.

    Example:
        >>> import torch
        >>> RandomHorizontalFlip(1.0)(torch.tensor([[[1, 2, 3]]]))
        tensor([[[3, 2, 1]]])
    """

    takes: ClassVar[str] = "tensor"

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p is a probability from 0 to 1, but got {p}")
        self.p = p

    def __call__(self, image: Any) -> Tensor:
        """Return the image, or its mirror image."""
        whole = as_image_tensor(image)
        return whole.flip(-1) if torch.rand(1).item() < self.p else whole

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip({self.p})"


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width.

    Raises:
        ValueError: They are not one or two positive integers.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"size is one or two positive integers, but got {size!r}")
    return pair
