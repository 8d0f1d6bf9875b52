"""Pickle what workers need to start, once for all of them.

Runs in: consumer (``SharedPickle.pack``) and worker (``SharedPickle.open``).

Under spawn and forkserver every worker gets its own copy of the dataset. Here the dataset is
pickled once into an anonymous file; its arrays and tensors lie beside the pickle and each worker
maps them privately. So they cost memory once, and a worker that writes into one changes its own
copy, as with a pickled one. What lies in a file of its own already (the memory of a ``SharedList``)
travels as a descriptor.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastload._memory.arena import anonymous_file, write_at
from fastload._memory.fake_tensors import real_tensors
from fastload._memory.layout import DTYPE_NUMBERS, DTYPES, Shape, aligned
from fastload._memory.reducers import LiveReducers
from fastload._memory.shared_bytes import SharedBytes, Span, attach
from fastload._memory.write import is_its_bytes, is_plain
from fastload._system.descriptors import Descriptor
from fastload._torch_private import unpickled


class NeedsInheritanceError(Exception):
    """Raised for what must be handed over while a process is started, and can't be pickled once."""


class SharedPickle:
    """A pickled object in an anonymous file; it can travel to a process that is being started."""

    def __init__(
        self,
        descriptor: Descriptor,
        spans: tuple[tuple[int, int], ...],
        frozen: tuple[Descriptor, ...] = (),
    ) -> None:
        self._descriptor = descriptor
        self._spans = spans
        self._frozen = frozen

    @classmethod
    def pack(cls, content: Any) -> SharedPickle:
        """Pickle ``content`` into a new anonymous file.

        Raises:
            Exception: It can't be pickled, or not outside the start of a process.
        """
        file = io.BytesIO()
        buffers: list[pickle.PickleBuffer] = []
        pickler = _Pickler(file, buffers.append)
        with real_tensors():
            pickler.dump(content)
        chunks = [file.getbuffer(), *(buffer.raw() for buffer in buffers)]
        spans, end = [], 0
        for chunk in chunks:
            start = aligned(end)
            end = start + chunk.nbytes
            spans.append((start, end))
        descriptor = anonymous_file()
        try:
            os.ftruncate(descriptor, max(end, 1))
            for (start, _), chunk in zip(spans, chunks, strict=True):
                write_at(descriptor, start, chunk.cast("B"))
        except BaseException:
            os.close(descriptor)
            raise
        frozen = tuple(Descriptor(os.dup(content.descriptor)) for content in pickler.frozen)
        return cls(Descriptor(descriptor), tuple(spans), frozen)

    def open(self) -> Any:
        """Return the object; what is large in it is mapped, not copied."""
        size = max(end for _, end in self._spans) or 1
        mapping = mmap.mmap(
            self._descriptor.number, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
        )
        os.close(self._descriptor.number)
        view = memoryview(mapping)
        buffers = [view[start:end] for start, end in self._spans[1:]]
        return unpickled(_Unpickler(mapping, buffers, self._frozen).load)  # the pickle lies first

    def close(self) -> None:
        """Close its descriptors in a process that has not opened it."""
        for descriptor in (self._descriptor, *self._frozen):
            os.close(descriptor.number)


class _Pickler(pickle.Pickler):
    def __init__(self, file: Any, add_buffer: Callable[[pickle.PickleBuffer], None]) -> None:
        super().__init__(file, protocol=5, buffer_callback=add_buffer)
        self.dispatch_table = LiveReducers()
        self.frozen: list[SharedBytes] = []
        self._storages: dict[int, npt.NDArray[Any]] = {}

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is SharedBytes:
            self.frozen.append(obj)
            return attached, (len(self.frozen) - 1, obj.spans)
        if not isinstance(obj, Tensor):
            return NotImplemented
        # What a device or shared memory holds is passed on by handles of torch's, which can be made
        # while one process is started, but not once for all.
        if obj.device.type not in {"cpu", "meta"} or (obj.device.type == "cpu" and _shares(obj)):
            raise NeedsInheritanceError
        if not _can_be_remade(obj):
            return NotImplemented
        storage = obj.untyped_storage()
        content = self._storages.get(storage.data_ptr())
        if content is None:
            flat = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage)
            content = self._storages[storage.data_ptr()] = flat.numpy()
        place = obj.storage_offset(), tuple(obj.shape), obj.stride()
        return _tensor, (content, DTYPE_NUMBERS[obj.dtype], *place, obj.requires_grad)


def attached(number: int, spans: tuple[Span, ...]) -> Any:
    """Stand in a shared pickle for the ``SharedBytes`` behind the descriptor of this number."""
    raise RuntimeError(
        f"descriptor {number} of a shared pickle was asked for outside of it ({spans})"
    )


class _Unpickler(pickle.Unpickler):
    """An unpickler for which the global ``attached`` takes a descriptor of this shared pickle."""

    def __init__(
        self, file: Any, buffers: list[memoryview], descriptors: tuple[Descriptor, ...]
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._descriptors = descriptors

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, attached.__name__):
            return lambda number, spans: attach(self._descriptors[number], spans)
        return super().find_class(module, name)


def _can_be_remade(tensor: Tensor) -> bool:
    """Return whether a tensor can be made again of its storage and a place in it."""
    is_ordinary = type(tensor) is Tensor and tensor.numel() > 0 and tensor.is_leaf
    return is_ordinary and is_its_bytes(tensor)


def _shares(tensor: Tensor) -> bool:
    storage: Any = tensor.untyped_storage() if is_plain(tensor) else None
    return storage is not None and bool(storage.is_shared())


def _tensor(
    content: npt.NDArray[np.uint8],
    dtype: int,
    offset: int,
    shape: Shape,
    strides: Shape,
    requires_grad: bool,
) -> Tensor:
    tensor = torch.empty(0, dtype=DTYPES[dtype], device="cpu")
    tensor.set_(torch.from_numpy(content).untyped_storage(), offset, shape, strides)
    return tensor.requires_grad_(requires_grad)
