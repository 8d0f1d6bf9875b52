"""Call transforms one after the other.

Runs in: worker (consumer with ``num_workers=0``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Compose:
    """Several transforms as one: each gets what the one before it returned.

    The first may be any transform: the image comes in the form that it takes.

    Args:
        transforms: What is called, in this order.

    Attributes:
        transforms: The same.

    Example:
        >>> import torch
        >>> from fastload.transforms import CenterCrop, ToFloat
        >>> both = Compose([CenterCrop(24), ToFloat()])
        >>> both(torch.zeros(3, 48, 96, dtype=torch.uint8)).shape
        torch.Size([3, 24, 24])
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    @property
    def takes(self) -> str:
        """The form of the image that the first transform takes."""
        first = self.transforms[0] if self.transforms else None
        return "tensor" if first is None else str(getattr(first, "takes", "pil"))

    def __call__(self, image: Any) -> Any:
        """Return what the last transform returns."""
        for transform in self.transforms:
            image = transform(image)
        return image

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.transforms))}])"
