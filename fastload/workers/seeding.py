"""Give a worker the random state that torch's worker of the same number has."""

from __future__ import annotations

import random

import numpy as np
import torch

from fastload.internals import numpy_seed


def seed_worker(base_seed: int, worker_id: int) -> int:
    """Seed torch, Python and NumPy as torch does; returns ``base_seed + worker_id``."""
    seed = base_seed + worker_id
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(numpy_seed(base_seed, worker_id))
    return seed
