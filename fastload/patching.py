"""Put fastload's DataLoader in the place of torch's, in programs that are not to be edited.

What is replaced is the *name*, in ``torch.utils.data`` and in every module that imported it from
there.
Loaders that exist already, and classes that were derived from torch's, stay what they are.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

import torch.utils.data

from fastload.dataloader import DataLoader

_TORCH: type = torch.utils.data.DataLoader


_replaced: list[tuple[ModuleType, str]] = []


def patch() -> list[str]:
    """Replace torch's DataLoader by fastload's, wherever a module has it under a name.

    Returns:
        The names that were replaced now, such as ``"torch.utils.data.DataLoader"``, sorted.

    Example:
        >>> "torch.utils.data.DataLoader" in patch()
        True
        >>> torch.utils.data.DataLoader is DataLoader
        True
        >>> _ = unpatch()
    """
    found = []
    for module in tuple(sys.modules.values()):
        # Its __dict__, not getattr: lazy modules would import things for being looked at.
        names = getattr(module, "__dict__", {})
        if str(names.get("__name__")).partition(".")[0] == "fastload":
            continue
        found += [(module, name) for name, value in tuple(names.items()) if value is _TORCH]
    for module, name in found:
        setattr(module, name, DataLoader)
    _replaced.extend(found)
    return _named(found)


def unpatch() -> list[str]:
    """Undo ``patch``. A module that imported the name in between keeps the class it got.

    Returns:
        The names that were restored, sorted.
    """
    restored = [
        (module, name) for module, name in _replaced if vars(module).get(name) is DataLoader
    ]
    for module, name in restored:
        setattr(module, name, _TORCH)
    _replaced.clear()
    return _named(restored)


@contextlib.contextmanager
def patched() -> Iterator[list[str]]:
    """``patch`` for the length of a ``with`` block; gives the names that were replaced."""
    try:
        yield patch()
    finally:
        unpatch()


def _named(found: list[tuple[ModuleType, str]]) -> list[str]:
    return sorted(f"{module.__name__}.{name}" for module, name in found)
