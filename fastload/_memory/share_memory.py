"""Keep the memory of a batch alive when torch moves one of its tensors into other shared memory.

Runs in: consumer.

``share_memory_()``, and every queue, replaces the memory *behind* a storage by shared memory of
torch's own. Older aliases (``.numpy()``, DLPack) still point to the old memory, which nothing keeps
any more. torch's own batches from workers don't have this problem: they are shared already. So
torch's two methods that share a storage are wrapped once a batch of ours exists: the old memory of
a batch stays for as long as the storage, which every alias keeps, is in use.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch

from fastload._memory.arena import Bytes
from fastload._system.interruptions import in_c
from fastload._torch_private import StorageWeakRef

Finder = Callable[[int], Bytes | None]

_finders: list[Finder] = []
_owners: dict[int, weakref.ref[Bytes]] = {}
_kept: list[tuple[Any, Bytes]] = []


def remember(address: int, owner: Bytes) -> None:
    """Note that the storage at this address lies in the private memory of this array."""
    _owners[address] = weakref.ref(owner, in_c(_owners.pop, (address,), (None,)))


def _owner(address: int) -> Bytes | None:
    found = _owners.get(address)
    return None if found is None else found()


def release_unused() -> None:
    """Let go of memory whose storage is no longer in use."""
    if _kept:
        _kept[:] = [kept for kept in _kept if not kept[0].expired()]


def find_owners_with(finder: Finder) -> None:
    """Have this function asked too for the array that keeps the memory at an address."""
    _finders.append(finder)


@functools.cache
def follow_sharing() -> None:
    """Wrap torch's two methods that share a storage, once in each process."""
    for name in ("_share_fd_cpu_", "_share_filename_cpu_"):
        setattr(torch.UntypedStorage, name, _keeping(getattr(torch.UntypedStorage, name)))


def _keeping(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def share(storage: torch.UntypedStorage, *args: Any, **kwargs: Any) -> Any:
        release_unused()
        address = storage.data_ptr()
        owners = (_owner(address), *(find(address) for find in _finders))
        _kept.extend((StorageWeakRef(storage), owner) for owner in owners if owner is not None)
        return original(storage, *args, **kwargs)

    return share
