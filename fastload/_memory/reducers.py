"""What pickles objects of which type: multiprocessing's registry and copyreg's, as they are now.

Runs in: consumer and worker.

A library may register how its objects cross processes when it is first imported, which may be in
a worker and after some batches. So nothing here is a copy of a registry.
"""

from __future__ import annotations

import copyreg
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

from torch import Tensor

from fastload._torch_private import reduce_typed_storage

REGISTERED: Final[dict[type, Any]] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
"""What crosses processes in a way of its own, beyond pickle: multiprocessing's living registry."""


class LiveReducers(dict[type, Any]):
    """How objects of a type are pickled: its own entries, else what is registered by now.

    These are multiprocessing's registry and copyreg's, asked for each object as multiprocessing's
    own pickler does. Only torch's reducers are left out, which make a file for each tensor.
    """

    def __missing__(self, kind: type) -> Any:
        reducer = REGISTERED.get(kind)
        if reducer is None or _is_torchs(reducer):
            return copyreg.dispatch_table[kind]  # a KeyError means that the object knows
        return reducer


def is_registered(kind: type) -> bool:
    """Whether code that somebody registered sees an object of this type when it is pickled."""
    return kind in copyreg.dispatch_table or kind in REGISTERED


def _is_torchs(reducer: Any) -> bool:
    return bool(getattr(reducer, "__module__", None) == reduce_typed_storage.__module__)


def tensors_are_ours() -> bool:
    """Whether nobody has registered another way in which tensors cross processes."""
    return _is_torchs(REGISTERED.get(Tensor, reduce_typed_storage))
