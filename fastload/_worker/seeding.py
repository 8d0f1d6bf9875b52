"""Give a worker the random state that torch's worker of the same number has."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator

import numpy as np
import torch

from fastload._torch_private import numpy_seed


def seed_worker(base_seed: int, worker_id: int) -> int:
    """Seed torch, Python and NumPy as torch does; returns ``base_seed + worker_id``."""
    seed = base_seed + worker_id
    random.seed(seed)
    with _without_stacks():
        torch.manual_seed(seed)
    np.random.seed(numpy_seed(base_seed, worker_id))
    return seed


@contextlib.contextmanager
def _without_stacks() -> Iterator[None]:
    """Let torch not write down from where each kind of accelerator was seeded.

    It does so for the case that the accelerator can't be used later, with source lines: of the
    three milliseconds that a forked worker takes to begin, that was half.
    """
    before = vars(sys).get("tracebacklimit")
    sys.tracebacklimit = 0
    try:
        yield
    finally:
        if before is None:
            del sys.tracebacklimit
        else:
            sys.tracebacklimit = before
