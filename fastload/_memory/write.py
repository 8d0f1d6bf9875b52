"""Write one batch into a slot of the arena.

Runs in: worker.
Takes: a batch (any tree of any objects) and a slot, which the worker has chosen among those that
are granted to it.
Gives: the layout of the leaves that lie in the slot, and a skeleton: the batch pickled with a
reference in the place of each leaf.

The pickler's own walk is the one walk over the batch: it knows every container there is, keeps
objects that occur twice the same object, and is written in C. Plain dense tensors and arrays become
leaves; everything else is pickled as always, by the reducers that are registered at that moment. A
leaf that does not fit into the slot is attached to the skeleton and goes through the pipe from
where it lies: slower, never wrong.
"""

from __future__ import annotations

import ctypes
import functools
import math
import pickle
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastload._memory.arena import SMALLEST_FAULT_IN_BYTES, Arena, Bytes
from fastload._memory.granted import NO_SLOT
from fastload._memory.layout import (
    ALIGNMENT_BYTES,
    DTYPE_NUMBERS,
    DTYPES,
    Layout,
    Leaf,
    Shape,
    dense_strides,
    row_strides,
)
from fastload._memory.reducers import LiveReducers, is_registered, tensors_are_ours
from fastload._memory.share_memory import remember
from fastload._torch_private import (
    DENSE_CPU_KEYS,
    PLAIN_CPU_KEYS,
    dispatch_keys,
    reduce_typed_storage,
    tensor_modes,
)

NO_MEMORY: Bytes = np.empty(0, np.uint8)
LEAF_MODULE = __name__
LEAF_NAME = "leaf"
ARRAY_KINDS = frozenset("biufcmMSU")

SMALLEST_ATTACHED_BYTES = 1 << 16
"""From this size on, what does not fit into the slot is sent from where it lies."""


class LeafRef:
    """Stands in a batch for the leaf of this number, which lies in the slot and was never a tensor.

    It is only used for a batch that nobody looks at before it is written.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class Place(Protocol):
    """Where a collate function puts its results: a slot, or ordinary memory."""

    def tensor(self, shape: Shape, dtype: torch.dtype, strides: Shape | None = None) -> Tensor:
        """Make a tensor with undefined content, to be filled by the caller.

        It is contiguous, or has these strides: those of a permuted contiguous tensor.
        """

    def filled(self, shape: Shape, dtype: torch.dtype, content: bytes) -> Tensor | LeafRef:
        """Make a contiguous tensor of these bytes, or what stands for it."""

    def reference(self, tensor: Tensor) -> Tensor | LeafRef:
        """Return a tensor of this place that has its content, or what stands for it."""


class Heap:
    """Ordinary private memory as a place."""

    def tensor(self, shape: Shape, dtype: torch.dtype, strides: Shape | None = None) -> Tensor:
        """Make a tensor as ``torch.empty`` does, on the CPU."""
        if strides is not None:
            return torch.empty_strided(shape, strides, dtype=dtype, device="cpu")
        return torch.empty(shape, dtype=dtype, device="cpu")

    def filled(self, shape: Shape, dtype: torch.dtype, content: bytes) -> Tensor:
        """Make a tensor of these bytes; nothing ever stands for it."""
        return fill(self.tensor(shape, dtype), content)

    def reference(self, tensor: Tensor) -> Tensor:
        """Return the tensor itself."""
        return tensor


def fill(tensor: Tensor, content: bytes) -> Tensor:
    """Copy all bytes into a new tensor; views of it and of them would cost more than the copy."""
    assert len(content) == tensor.nbytes
    if tensor_modes() and not has_plain_bytes(tensor):  # whatever a mode makes of a new tensor
        source = torch.frombuffer(bytearray(content), dtype=tensor.dtype)
        return tensor.copy_(source.reshape(tensor.shape))
    ctypes.memmove(tensor.data_ptr(), content, len(content))
    return tensor


HEAP = Heap()


class SlotPlace:
    """A slot, or a region of one, for one batch at a time; what does not fit is private memory."""

    def __init__(
        self,
        arena: Arena | None,
        slot: int,
        region: tuple[int, int] | None = None,
        *,
        is_exact: bool = False,
    ) -> None:
        """``region`` is where in the slot its bytes begin and end; None: all of the slot.

        ``is_exact``: refuse what a batch may lose on its way, because other code of the user's will
        look at it: attributes of plain tensors, and bare objects, which are compared by ``is``.
        """
        self._arena = arena
        self.is_exact = is_exact
        self._slot = slot
        self._region = region
        usable = arena is not None and slot != NO_SLOT
        self.memory = arena.slot(slot) if arena is not None and usable else NO_MEMORY
        self.address = 0 if arena is None else arena.address + slot * arena.stride_bytes
        self._content = self.memory.data
        self.empty()

    def empty(self) -> None:
        """Forget the batch before and begin the next one."""
        self.used_bytes, end = self._region or (0, len(self.memory))
        # A reducer of the user's for tensors sees every tensor there is: none lies here then.
        self._size_bytes = end if tensors_are_ours() else 0
        self.leaves: list[Leaf] = []
        self.attached: list[pickle.PickleBuffer] = []
        self._placed: dict[int, tuple[Tensor, int, int]] = {}
        if self._arena is not None and not self._arena.is_memory:
            self._arena.forget_room(self._slot, self.used_bytes)

    def attach(self, memory: Bytes) -> pickle.PickleBuffer:
        """Send memory beside the skeleton, from where it lies; return what stands for it there."""
        buffer = pickle.PickleBuffer(memory)  # type: ignore[arg-type]  # NumPy: from 3.12 on
        self.attached.append(buffer)
        return buffer

    def is_part_of_skeleton(self, buffer: pickle.PickleBuffer) -> bool:
        """Return whether the pickler must copy a buffer: it must unless it was just attached."""
        return not (self.attached and self.attached[-1] is buffer)

    def tensor(self, shape: Shape, dtype: torch.dtype, strides: Shape | None = None) -> Tensor:
        """Make a tensor, a leaf of the batch, in the slot; in private memory if that is full."""
        number = DTYPE_NUMBERS.get(dtype)
        offset = None if number is None else self.reserve(math.prod(shape) * dtype.itemsize)
        if number is None or offset is None:
            return HEAP.tensor(shape, dtype, strides)
        tensor = torch.frombuffer(self.memory, dtype=dtype, count=math.prod(shape), offset=offset)
        if strides is not None:
            tensor.as_strided_(shape, strides)
        elif len(shape) > 1:
            tensor.resize_(*shape)  # as one argument it would take twice as long
        elif not shape:
            tensor.resize_(())
        self._placed[id(tensor)] = tensor, len(self.leaves), tensor.data_ptr()
        self.leaves.append((number, offset, shape, strides, False))
        return tensor

    def filled(self, shape: Shape, dtype: torch.dtype, content: bytes) -> Tensor | LeafRef:
        """Copy the bytes into the slot and return a reference; a tensor only if the slot is full.

        Making a tensor takes longer than a small copy.
        """
        offset = self.reserve(len(content))
        if offset is None:
            return HEAP.filled(shape, dtype, content)
        self._content[offset : offset + len(content)] = content
        leaves = self.leaves
        leaves.append((DTYPE_NUMBERS[dtype], offset, shape, None, False))
        return LeafRef(len(leaves) - 1)

    def reference(self, tensor: Tensor) -> Tensor | LeafRef:
        """Return what stands for a tensor, or the tensor itself if it lies in private memory."""
        known = self._placed.get(id(tensor))
        return tensor if known is None else LeafRef(known[1])

    def reserve(self, size_bytes: int) -> int | None:
        """Return the offset where so many bytes may be written; None if they are 0 or don't fit."""
        offset = (self.used_bytes + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES
        end = offset + size_bytes
        arena = self._arena
        if arena is None or size_bytes == 0 or end > self._size_bytes:
            return None
        if not (arena.is_memory or arena.has_room(self._slot, end)):
            return None
        self.used_bytes = end
        if end >= SMALLEST_FAULT_IN_BYTES and self._region is None:
            arena.fault_in(self._slot, end, to_write=True)
        return offset

    def number_of(self, tensor: Tensor) -> int | None:
        """Return which leaf a tensor is, if this place made it and it is unchanged; else None."""
        known = self._placed.get(id(tensor))
        if known is None:
            return None
        placed, number, address = known
        _, _, shape, strides, _ = self.leaves[number]
        same = (
            placed is tensor
            and tensor.data_ptr() == address
            and tensor.shape == shape
            and (tensor.is_contiguous() if strides is None else tensor.stride() == strides)
            and not tensor.requires_grad
        )
        return number if same else None


def write_batch(batch: Any, place: SlotPlace) -> tuple[Layout, bytes]:
    """Put a batch, but for leaves that lie there already, into a slot; return layout and skeleton.

    Raises:
        Exception: Whatever pickling an object of the batch raises.
        PicklingError: Something would be lost, and the place is exact.
    """
    skeleton = _write_flat_container(batch, place)
    if skeleton is None:
        skeleton = _pickled(batch, place)
    return tuple(place.leaves), skeleton


class _Chunks(list[Any]):
    """A file that keeps the pieces which are written to it, without a copy of them."""

    write = list.append


def _pickled(batch: Any, place: SlotPlace) -> bytes:
    chunks = _Chunks()
    pickler = pickle.Pickler(chunks, protocol=5, buffer_callback=place.is_part_of_skeleton)
    # Partial functions, not bound methods of a pickler: those would keep it, and so the batch.
    table = LiveReducers()
    if tensors_are_ours():
        table[Tensor] = functools.partial(_reduce_any_tensor, place)
    if not is_registered(np.ndarray):
        table[np.ndarray] = functools.partial(_reduce_array, place)
    table[LeafRef] = _reduce_reference
    table[torch.UntypedStorage] = _reduce_storage
    table[torch.TypedStorage] = reduce_typed_storage  # pickled by itself, it would be a file
    if place.is_exact:
        table[object] = _refuse
    pickler.dispatch_table = table
    pickler.dump(batch)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _write_flat_container(batch: Any, place: SlotPlace) -> bytes | None:
    """Write one container of leaves without a pickler; return None for any other batch.

    Its leaves lie in the slot already, all that are there and in their order; or none does, and
    each is a tensor of the usual kind.
    """
    kind: Any = type(batch)
    keys = None
    if kind is list or kind is tuple:
        leaves = batch
    elif kind is dict and all(type(key) is str for key in batch):
        keys, leaves = tuple(batch), list(batch.values())
    else:
        return None
    if place.leaves:
        if len(leaves) != len(place.leaves):
            return None
        for number, each in enumerate(leaves):
            if type(each) is not LeafRef or each.number != number:
                return None
    elif not _copy_all(leaves, place):
        place.empty()
        return None
    return _common_skeleton(kind, keys, len(leaves))


def _copy_all(tensors: Sequence[Any], place: SlotPlace) -> bool:
    """Copy different tensors into an empty slot; return False if one of them is something else."""
    return (
        all(type(each) is Tensor for each in tensors)
        and not (place.is_exact and any(each.__dict__ for each in tensors))
        and tensors_are_ours()
        and len(set(map(id, tensors))) == len(tensors)
        and all(_copy_plain(each, place) is not None for each in tensors)
    )


@functools.lru_cache(maxsize=64)
def _common_skeleton(kind: Any, keys: tuple[str, ...] | None, count: int) -> bytes:
    placed = [LeafRef(number) for number in range(count)]
    batch = kind(placed) if keys is None else dict(zip(keys, placed, strict=True))
    return _pickled(batch, SlotPlace(None, NO_SLOT))


def leaf(number: int) -> Any:
    """Stand in a skeleton for the leaf of this number; the consumer puts the leaf there."""
    raise RuntimeError(f"leaf {number} of a skeleton was read without its slot")


def empty_tensor(dtype: int, shape: Shape, strides: Shape, requires_grad: bool) -> Tensor:
    """Make a tensor without elements, which no slot can hold."""
    tensor = torch.empty_strided(shape, strides, dtype=DTYPES[dtype], device="cpu")
    return tensor.requires_grad_(requires_grad)


def inline_tensor(
    dtype: int, shape: Shape, strides: Shape | None, requires_grad: bool, content: Any
) -> Tensor:
    """Make a tensor that did not fit into the slot, of content that came with the skeleton."""
    memory = np.frombuffer(content, np.uint8)
    remember(memory.ctypes.data, memory)
    tensor = torch.frombuffer(memory, dtype=DTYPES[dtype])
    tensor = tensor.resize_(shape) if strides is None else tensor.as_strided_(shape, strides)
    return tensor.requires_grad_(requires_grad)


def inline_array(content: Any, dtype: str, shape: Shape, order: Any) -> npt.NDArray[Any]:
    """Make an array that did not fit into the slot, of content that came beside the skeleton."""
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def storage_of(tensor: Tensor) -> torch.UntypedStorage:
    """Return the storage of a tensor; a storage travels as a tensor of its bytes."""
    return tensor.untyped_storage()


def _refuse(content: Any) -> Any:
    raise pickle.PicklingError(f"something of {content!r} would be lost on its way")


def _reduce_any_tensor(place: SlotPlace, tensor: Tensor) -> Any:
    if place.is_exact and tensor.__dict__:
        _refuse(tensor)
    number = place.number_of(tensor)
    if number is None:
        number = _copy_plain(tensor, place)
    return _reduce_tensor(tensor, place) if number is None else (leaf, (number,))


def _reduce_reference(reference: LeafRef) -> Any:
    return leaf, (reference.number,)


def _reduce_storage(storage: torch.UntypedStorage) -> Any:
    """Pickle a storage as a tensor of its bytes; torch's own pickle of one can't be unpickled."""
    return storage_of, (torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage),)


def _copy_plain(tensor: Tensor, place: SlotPlace) -> int | None:
    """Copy a tensor of the usual kind into the slot and return its number; None for other tensors.

    The six torch operations of the general way cost more than a small tensor.
    """
    if tensor.requires_grad or not is_its_bytes(tensor) or not tensor.is_contiguous():
        return None
    shape = tuple(tensor.shape)
    if 1 in shape and tensor.stride() != row_strides(shape):
        return None
    source = tensor.data_ptr()
    if source == 0:  # nothing in it, or torch's tensor of zeros that has no memory
        return None
    size_bytes = tensor.nbytes
    offset = place.reserve(size_bytes)
    if offset is None:
        return None
    ctypes.memmove(place.address + offset, source, size_bytes)
    leaves = place.leaves
    leaves.append((DTYPE_NUMBERS[tensor.dtype], offset, shape, None, False))
    return len(leaves) - 1


def _reduce_tensor(tensor: Tensor, place: SlotPlace) -> Any:
    if tensor.requires_grad and not tensor.is_leaf:
        # torch's own words: its loader refuses the same.
        raise RuntimeError(
            "Cowardly refusing to serialize non-leaf tensor which requires_grad, since autograd "
            "does not support crossing process boundaries.  If you just want to transfer the "
            "data, call detach() on the tensor before serializing (e.g., putting it on the queue)."
        )
    if not is_plain(tensor):
        return tensor.__reduce_ex__(5)  # type: ignore[no-untyped-call]
    if tensor.numel() == 0:
        place_of = tuple(tensor.shape), tensor.stride()
        return empty_tensor, (DTYPE_NUMBERS[tensor.dtype], *place_of, tensor.requires_grad)
    requires_grad = tensor.requires_grad
    source = tensor.detach().resolve_conj().resolve_neg()
    shape = tuple(source.shape)
    strides: Shape | None = None
    if source.stride() != row_strides(shape):  # also where a dimension of size 1 has an odd one
        if dense_strides(shape, source.stride()):
            strides = source.stride()
        else:
            source = source.contiguous()
    flat = source.as_strided((source.numel(),), (1,)).view(torch.uint8)
    dtype = DTYPE_NUMBERS[source.dtype]
    offset = place.reserve(source.nbytes)
    if offset is None:
        bytes_of: Bytes = flat.numpy()
        is_large = source.nbytes >= SMALLEST_ATTACHED_BYTES
        content = place.attach(bytes_of) if is_large else bytearray(bytes_of)
        return inline_tensor, (dtype, shape, strides, requires_grad, content)
    target = torch.frombuffer(place.memory, dtype=torch.uint8, count=source.nbytes, offset=offset)
    target.copy_(flat)
    place.leaves.append((dtype, offset, shape, strides, requires_grad))
    return leaf, (len(place.leaves) - 1,)


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is real, dense, on the CPU and of a dtype without anything but bytes.

    It may be conjugated or negated lazily, or be a tensor of zeros without memory.
    """
    return dispatch_keys(tensor).raw_repr() in DENSE_CPU_KEYS and tensor.dtype in DTYPE_NUMBERS


def is_its_bytes(tensor: Tensor) -> bool:
    """Return whether a slot can hold such a tensor: its elements are as they lie in memory."""
    return has_plain_bytes(tensor) and tensor.dtype in DTYPE_NUMBERS


def has_plain_bytes(tensor: Tensor) -> bool:
    """Return whether a tensor's elements lie at its address; otherwise that address is never used.

    Torch's dispatch keys tell such a tensor from fake, wrapped (``vmap``, functional), quantized,
    sparse, nested, conjugated tensors and whatever else torch has or will have.
    """
    return dispatch_keys(tensor).raw_repr() in PLAIN_CPU_KEYS


def _reduce_array(place: SlotPlace, array: npt.NDArray[Any]) -> Any:
    if array.dtype.kind not in ARRAY_KINDS or array.size == 0 or array.dtype.metadata is not None:
        return array.__reduce_ex__(5)
    in_columns = array.flags.f_contiguous and not array.flags.c_contiguous
    order: Any = "F" if in_columns else "C"
    offset = place.reserve(array.nbytes)
    if offset is None:
        if array.nbytes < SMALLEST_ATTACHED_BYTES:
            return array.__reduce_ex__(5)
        content = np.ascontiguousarray(array.T if in_columns else array)
        buffer = place.attach(content.reshape(-1).view(np.uint8))
        return inline_array, (buffer, array.dtype.str, array.shape, order)
    target = np.frombuffer(place.memory, array.dtype, array.size, offset)
    np.copyto(target.reshape(array.shape, order=order), array)
    strides = array.strides if in_columns else None
    place.leaves.append((array.dtype.str, offset, array.shape, strides, False))
    return leaf, (len(place.leaves) - 1,)
