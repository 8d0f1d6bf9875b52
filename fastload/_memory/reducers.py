"""Find the function that pickles objects of a type: what multiprocessing or copyreg has by now.

Runs in: consumer and worker.

A library may register how its objects cross processes when it is first imported, which may be in a
worker and after some batches. So nothing here is a copy of a registry.
"""

from __future__ import annotations

import copyreg
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

from torch import Tensor

from fastload._torch_private import reduce_typed_storage

REGISTERED: Final[dict[type, Any]] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
"""Multiprocessing's own living registry of how objects of a type cross processes."""


class LiveReducers(dict[type, Any]):
    """A pickler's dispatch table: its own entries, and for other types what is registered by now.

    Multiprocessing's registry and copyreg's are asked for each object, as multiprocessing's own
    pickler does. Only torch's reducers are left out, which make a file for each tensor.
    """

    def __missing__(self, kind: type) -> Any:
        reducer = REGISTERED.get(kind)
        if reducer is None or _is_torchs(reducer):
            return copyreg.dispatch_table[kind]  # a KeyError means that the object knows
        return reducer


def is_registered(kind: type) -> bool:
    """Return whether code that somebody registered sees objects of this type when pickled."""
    return kind in copyreg.dispatch_table or kind in REGISTERED


def _is_torchs(reducer: Any) -> bool:
    return bool(getattr(reducer, "__module__", None) == reduce_typed_storage.__module__)


def tensors_are_ours() -> bool:
    """Return whether nobody has registered another way in which tensors cross processes."""
    return _is_torchs(REGISTERED.get(Tensor, reduce_typed_storage))
