"""Give programs that know only torch's DataLoader ours, without an edit.

Replaced is the *name*: in ``torch.utils.data`` and in every module that imported it from there.
Loaders that exist already, and classes that were derived from torch's, stay what they are.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch.utils.data

from fastload.dataloader import DataLoader

_TORCH: type = torch.utils.data.DataLoader


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
    return _replace(_TORCH, DataLoader)


def unpatch() -> list[str]:
    """Undo ``patch``, also in modules that were imported since.

    Returns:
        The names that were restored, sorted.
    """
    return _replace(DataLoader, _TORCH)


@contextlib.contextmanager
def patched() -> Iterator[list[str]]:
    """``patch`` for the length of a ``with`` block; gives the names that were replaced."""
    replaced = patch()
    try:
        yield replaced
    finally:
        unpatch()


def _replace(old: type, new: type) -> list[str]:
    replaced = []
    for module_name, module in tuple(sys.modules.items()):
        if module is None or module_name.partition(".")[0] == "fastload":
            continue
        # Its __dict__, not getattr: lazy modules would import things for being looked at.
        names = getattr(module, "__dict__", {})
        for name, value in tuple(names.items()):
            if value is old:
                names[name] = new
                replaced.append(f"{module_name}.{name}")
    return sorted(replaced)
