"""``torch.utils.data.get_worker_info()`` in threads: each worker its own, all others as before.

Runs in: threads (and the program's others, which ask the same function).

torch's function returns a global of its module, which all threads share. Setting that around each
call of user code would need a lock, and no two threads could load at once. Everybody has the
*function*, imported under any name, so what it does is replaced once, when a thread first becomes a
worker: it asks for the calling thread's own information and falls back to the global.

torch's kernel for tensors asks the same question to learn whether it runs in another process, and
then makes a file in shared memory for each batch. A thread does not, so that kernel is told None.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from fastload._torch_private import collate_module as torch_collate
from fastload._torch_private import worker_module as torch_worker


class _Here(threading.local):
    """What the calling thread is; None: no worker."""

    info: Any = None


_here = _Here()


def become_worker(info: Any) -> None:
    """Let ``get_worker_info()`` return this in the calling thread; None: what it returns elsewhere.

    A process that is forked by the thread is no such worker.
    """
    if not hasattr(torch_worker, _NAME):
        setattr(torch_worker, _NAME, _info_of_caller)
        torch_worker.get_worker_info.__code__ = get_worker_info.__code__
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget)
    _here.info = info


def get_worker_info() -> Any:
    """Never called here: its code becomes that of torch's function, in torch's module."""
    info = _fastload_info_of_caller()  # type: ignore[name-defined]  # noqa: F821
    return _worker_info if info is None else info  # type: ignore[name-defined]  # noqa: F821


_NAME = "_fastload_info_of_caller"
"""Under which torch's module finds ``_info_of_caller``."""


def _info_of_caller() -> Any:
    info = _here.info
    if info is None or sys._getframe(2).f_code is torch_collate.collate_tensor_fn.__code__:
        return None
    return info


def _forget() -> None:
    _here.info = None
