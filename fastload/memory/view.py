"""Show a batch that lies in a slot, or copy it out.

Runs in: consumer.
Takes: the bytes of a slot, the layout of its leaves and the skeleton that refers to them.
Gives: the batch: ordinary tensors and arrays. Each tensor has a storage of its own; those that
view the slot keep the view of it alive.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any, Final

import numpy as np
import torch

from fastload.memory.arena import Bytes
from fastload.memory.layout import DTYPES, Layout
from fastload.memory.sharing import remember
from fastload.memory.write import LEAF_MODULE, LEAF_NAME

_frombuffer: Final = torch.frombuffer


class BrokenBatchError(Exception):
    """An object of a batch can't be unpickled; the cause says why."""


def rebuild_batch(leaves: list[Any], skeleton: bytes) -> Any:
    """Put the leaves in their places.

    Raises:
        BrokenBatchError: Unpickling an object of the batch raised something.
        BaseException: A signal handler raised it: a batch of leaves in containers runs no code.
    """
    unpickler = _BatchUnpickler(io.BytesIO(skeleton), leaves)
    try:
        return unpickler.load()
    except (Exception, SystemExit) as error:
        if unpickler.has_objects:
            raise BrokenBatchError from error
        raise


def view_leaves(memory: Bytes, layout: Layout) -> list[Any]:
    """The leaves of a batch, in the order in which they were written."""
    leaves: list[Any] = []
    # An array whose base is an array takes that one's base instead and would not keep `memory`.
    exporter = memoryview(memory)  # type: ignore[arg-type]  # NumPy says so from Python 3.12 on
    for dtype, offset, shape, strides, requires_grad in layout:
        count = 1
        for size in shape:
            count *= size
        if type(dtype) is int:
            tensor = _frombuffer(memory, dtype=DTYPES[dtype], count=count, offset=offset)
            if strides is not None:
                tensor.as_strided_(shape, strides)
            elif len(shape) != 1:
                tensor.resize_(shape)
            if requires_grad:
                tensor.requires_grad_()
            leaves.append(tensor)
        else:
            array = np.frombuffer(exporter, dtype=str(dtype), count=count, offset=offset)
            # A leaf that is not contiguous in rows is so in columns: nothing else is written.
            leaves.append(array.reshape(shape, order="C" if strides is None else "F"))
    return leaves


def copy_leaves(memory: Bytes, layout: Layout) -> list[Any]:
    """The same, each leaf in private memory of its own; ``memory`` is not kept."""
    leaves: list[Any] = []
    for leaf in layout:
        dtype, offset, shape = leaf[:3]
        itemsize = DTYPES[dtype].itemsize if type(dtype) is int else np.dtype(str(dtype)).itemsize
        own = memory[offset : offset + math.prod(shape) * itemsize].copy()
        remember(own.ctypes.data, own)
        leaves += view_leaves(own, ((dtype, 0, *leaf[2:]),))
    return leaves


class _BatchUnpickler(pickle.Unpickler):
    """An unpickler for which the global ``leaf`` is this batch's list of leaves."""

    def __init__(self, file: io.BytesIO, leaves: list[Any]) -> None:
        super().__init__(file)
        self._leaves = leaves
        self.has_objects = False

    def find_class(self, module: str, name: str) -> Any:
        if module == LEAF_MODULE and name == LEAF_NAME:
            return self._leaves.__getitem__
        self.has_objects = True
        return super().find_class(module, name)
