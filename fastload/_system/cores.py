"""How many cores this process may use: affinity, cgroup quota, and the ranks beside it.

Runs in: consumer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fastload._system.cgroups import cpu_quota_cores
from fastload._system.interruptions import own_suppressed


@dataclass(frozen=True)
class Cores:
    """What limits the cores; ``usable`` may be a fraction.

    Attributes:
        affinity: Cores that this process may run on.
        quota: Cores that the cgroup's quota is worth; None without a quota.
        ranks: Training processes on this machine that share them, by ``LOCAL_WORLD_SIZE``.
    """

    affinity: int
    quota: float | None
    ranks: int

    @property
    def usable(self) -> float:
        """Cores for this rank."""
        whole = self.affinity if self.quota is None else min(self.affinity, self.quota)
        return max(whole / self.ranks, 0.1)

    def __str__(self) -> str:
        quota = "no cgroup quota" if self.quota is None else f"a cgroup quota of {self.quota:g}"
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        return f"affinity {self.affinity}, {quota}, {ranks} on this machine"


def affinity_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_ranks() -> int:
    """How many training processes share this machine, as torchrun says; 1 where nobody does."""
    with own_suppressed(ValueError):
        return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return 1


def find_cores() -> Cores:
    """Ask the system how many cores this process may use."""
    return Cores(affinity_cores(), cpu_quota_cores(), local_ranks())


def core_wait_s(who: int | str) -> float:
    """How long a process was ready to run and had no core; 0 where the kernel does not say.

    Args:
        who: Number of a process, or "thread-self" for the calling thread.

    Source: https://docs.kernel.org/scheduler/sched-stats.html
    """
    try:
        return int(Path(f"/proc/{who}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
