"""Show a batch that lies in a slot, or copy it out.

Runs in: consumer.
Takes: the bytes of a slot, the layout of its leaves and the skeleton that refers to them.
Gives: the batch, of ordinary tensors and arrays. Each tensor has a storage of its own; leaves that
view the slot keep the view of it alive, and so the lease.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch

from fastload._memory.arena import Bytes
from fastload._memory.layout import DTYPES, Layout, Leaf
from fastload._memory.share_memory import remember
from fastload._memory.write import LEAF_MODULE, LEAF_NAME
from fastload._system.interruptions import is_from_outside
from fastload._torch_private import unpickled

_frombuffer: Final = torch.frombuffer


class BrokenBatchError(Exception):
    """Raised if an object of a batch can't be unpickled; the cause says why."""


class Skeleton:
    """Puts leaves together to a batch; where it can, without unpickling from the second on."""

    __slots__ = ("_assemble", "_uses", "content")

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._uses = 0
        self._assemble: Callable[[list[Any]], Any] | None = None

    def assemble(self, leaves: list[Any], attached: Sequence[Any] = ()) -> Any:
        """Return the batch of these leaves and of what was sent beside the skeleton.

        Raises:
            BrokenBatchError: Unpickling an object of the batch raised something.
        """
        if attached:
            return rebuild_batch(leaves, self.content, attached)
        if self._assemble is not None:
            return self._assemble(leaves)
        if self._uses == 1:
            self._assemble = self._shortcut(len(leaves))
        self._uses += 1
        return rebuild_batch(leaves, self.content)

    def _shortcut(self, count: int) -> Callable[[list[Any]], Any] | None:
        """Return a function that needs no pickle, if the batch is a leaf or a container of leaves.

        Any other batch gives None.
        """
        marks = [object() for _ in range(count)]
        try:
            batch = _LeavesOnly(io.BytesIO(self.content), marks).load()
        except Exception as error:  # whatever else is in it
            if is_from_outside(error):
                raise
            return None
        if count == 1 and batch is marks[0]:
            return lambda leaves: leaves[0]
        if type(batch) in (list, tuple) and list(batch) == marks:
            return type(batch)
        keys = tuple(batch) if type(batch) is dict else ()
        if keys and all(type(key) in (str, int) for key in keys) and list(batch.values()) == marks:
            return lambda leaves: dict(zip(keys, leaves, strict=True))
        return None


class BatchTemplate:
    """The layout and skeleton of a worker's batch, prepared for the next one like it.

    Consecutive batches of a worker usually have the same template; from the second on, what can be
    computed of it beforehand is.

    Args:
        layout: Where the leaves lie.
        content: The skeleton, pickled.
        before: The worker's template before this one, which may have the same skeleton.
    """

    __slots__ = ("_common", "_uses", "layout", "skeleton")

    def __init__(self, layout: Layout, content: bytes, before: BatchTemplate | None = None) -> None:
        self.layout = layout
        same = (
            before is not None
            and before.skeleton.content == content
            and len(before.layout) == len(layout)  # not all of them need be in the skeleton
        )
        self.skeleton: Skeleton = before.skeleton if before and same else Skeleton(content)
        self._uses = 0
        self._common: list[Any] | None = None

    def view(self, memory: Bytes) -> list[Any]:
        """Return the leaves as views of a slot."""
        if self._common is None:
            if self._uses == 1 and all(map(_is_common, self.layout)):
                self._common = list(map(_prepared, self.layout))
            self._uses += 1
            return view_leaves(memory, self.layout)
        leaves = []
        for dtype, count, offset, shape in self._common:
            tensor = _frombuffer(memory, dtype=dtype, count=count, offset=offset)
            if shape is not None:
                tensor.resize_(*shape)  # as one argument it would take twice as long
            leaves.append(tensor)
        return leaves


def _is_common(leaf: Leaf) -> bool:
    dtype, _, shape, strides, requires_grad = leaf
    return type(dtype) is int and shape != () and strides is None and not requires_grad


def _prepared(leaf: Leaf) -> Any:
    dtype, offset, shape, _, _ = leaf
    return DTYPES[int(dtype)], math.prod(shape), offset, shape if len(shape) != 1 else None


def rebuild_batch(leaves: list[Any], skeleton: bytes, attached: Sequence[Any] = ()) -> Any:
    """Put the leaves, and what was sent beside the skeleton, in their places; return the batch.

    Raises:
        BrokenBatchError: Unpickling an object of the batch raised something.
        BaseException: A signal handler raised it: a batch of leaves in containers runs no code.
    """
    unpickler = _BatchUnpickler(io.BytesIO(skeleton), leaves, attached)
    try:
        return unpickled(unpickler.load)
    except (Exception, SystemExit) as error:
        if unpickler.has_objects:
            raise BrokenBatchError from error
        raise


def view_leaves(memory: Bytes, layout: Layout) -> list[Any]:
    """Return the leaves of a batch as views of ``memory``, in the order they were written in."""
    leaves: list[Any] = []
    exporter: Any = None
    for dtype, offset, shape, strides, requires_grad in layout:
        count = math.prod(shape)
        if type(dtype) is int:
            tensor = _frombuffer(memory, dtype=DTYPES[dtype], count=count, offset=offset)
            if strides is not None:
                tensor.as_strided_(shape, strides)
            elif len(shape) > 1:
                tensor.resize_(*shape)
            elif not shape:
                tensor.resize_(())
            if requires_grad:
                tensor.requires_grad_()
            leaves.append(tensor)
        else:
            # An array whose base is an array takes that one's base and would not keep `memory`.
            if exporter is None:
                exporter = memoryview(memory)  # type: ignore[arg-type]  # NumPy: from 3.12 on
            array = np.frombuffer(exporter, dtype=str(dtype), count=count, offset=offset)
            # A leaf that is not contiguous in rows is so in columns: nothing else is written.
            leaves.append(array.reshape(shape, order="C" if strides is None else "F"))
    return leaves


def copy_leaves(memory: Bytes, layout: Layout) -> list[Any]:
    """Return the same leaves, each in private memory of its own; ``memory`` is not kept."""
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

    def __init__(self, file: io.BytesIO, leaves: list[Any], attached: Sequence[Any] = ()) -> None:
        super().__init__(file, buffers=attached)
        self._leaves = leaves
        self.has_objects = False

    def find_class(self, module: str, name: str) -> Any:
        if module == LEAF_MODULE and name == LEAF_NAME:
            return self._leaves.__getitem__
        self.has_objects = True
        return super().find_class(module, name)


class _LeavesOnly(_BatchUnpickler):
    """An unpickler that refuses whatever is no leaf, so that nobody's code runs."""

    def find_class(self, module: str, name: str) -> Any:
        if module == LEAF_MODULE and name == LEAF_NAME:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no leaf")
