"""Find what is to be profiled, by its name on the command line.

Runs in: consumer.
Takes: ``module:attr`` or ``file.py:attr``.
Gives: a loader of either kind; the function that stands for a training step.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.utils.data

import fastload


class TargetError(Exception):
    """The name leads to nothing that can be profiled; the message says what was expected."""


def find(name: str) -> Any:
    """Import what ``module:attr`` or ``file.py:attr`` names; ``attr`` may have dots.

    Raises:
        TargetError: No such file, module or attribute.
        Exception: Whatever the module raises while it is imported.
    """
    home, colon, path = name.rpartition(":")
    if not colon or not home or not path:
        raise TargetError(f"{name!r} is neither module:attr nor file.py:attr")
    found: Any = _module(home)
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            known = ", ".join(sorted(_public(found)))
            raise TargetError(f"{home!r} has no {attribute!r}; it has: {known}") from None
    return found


def find_loader(name: str) -> torch.utils.data.DataLoader[Any]:
    """Find the loader of that name: a loader, a dataset, or a factory without arguments.

    Raises:
        TargetError: It is something else.
    """
    return as_loader(find(name), name)


def as_loader(found: Any, name: str) -> torch.utils.data.DataLoader[Any]:
    """Return a loader as it is, a dataset in a loader with workers, the result of a factory.

    Raises:
        TargetError: It is something else.
    """
    if callable(found) and not hasattr(found, "__getitem__"):
        found = found()
    if isinstance(found, torch.utils.data.DataLoader):
        return found
    is_stream = isinstance(found, torch.utils.data.IterableDataset)
    if is_stream or (hasattr(found, "__getitem__") and hasattr(found, "__len__")):
        return fastload.DataLoader(
            found, batch_size=32, shuffle=not is_stream, num_workers=1 if is_stream else 2
        )
    raise TargetError(
        f"{name!r} is of type {type(found).__name__}; expected a DataLoader, a dataset with "
        f"__getitem__ and __len__, an IterableDataset, or a function without arguments that "
        f"returns one of these"
    )


def find_step(name: str) -> Callable[[Any], Any]:
    """Find the function of that name that takes a batch, or the result of its factory.

    Raises:
        TargetError: It can't be called.
    """
    found = find(name)
    if not callable(found):
        raise TargetError(f"{name!r} is no function; expected one that takes a batch")
    try:
        parameters = inspect.signature(found).parameters.values()
    except ValueError:
        return found  # type: ignore[no-any-return]  # callable, as was asked
    if any(each.default is each.empty for each in parameters):
        return found  # type: ignore[no-any-return]  # as above
    step = found()
    if not callable(step):
        raise TargetError(
            f"{name!r} takes no batch and returned a {type(step).__name__}; expected a function "
            f"that takes a batch, or one that returns such a function"
        )
    return step  # type: ignore[no-any-return]  # as above


def _public(holder: Any) -> list[str]:
    names = [name for name in vars(holder) if not name.startswith("_")]
    return [name for name in names if not inspect.ismodule(getattr(holder, name, None))]


def _module(home: str) -> Any:
    if not home.endswith(".py"):
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(home)
        except ModuleNotFoundError as error:
            if error.name is None or not (home + ".").startswith(error.name + "."):
                raise
            raise TargetError(f"no module {error.name!r} in {Path.cwd()} or installed") from None
    file = Path(home).resolve()
    if not file.is_file():
        raise TargetError(f"no such file: {home}")
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    # By its own name, so that workers that are started anew can import it too.
    return importlib.import_module(file.stem)
