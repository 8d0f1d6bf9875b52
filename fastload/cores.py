"""How many cores this process may use: affinity, cgroup quota, and the ranks beside it.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


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


def find_cores() -> Cores:
    """Ask the system."""
    if hasattr(os, "sched_getaffinity"):
        affinity = len(os.sched_getaffinity(0))
    else:
        affinity = os.cpu_count() or 1
    ranks = 1
    with contextlib.suppress(ValueError):
        ranks = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return Cores(affinity, min(_quotas(), default=None), ranks)


def _quotas() -> list[float]:
    """The quota of every enclosing cgroup, in cores (versions 1 and 2)."""
    found: list[float] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = CGROUP
        elif "cpu" in controllers.split(","):
            root = CGROUP / "cpu"
        else:
            continue
        inner = root / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(root):
                found += _quota_of(folder)
    return found


def _quota_of(folder: Path) -> list[float]:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return [float(quota) / float(period)]  # "max" is no number: no quota
    with contextlib.suppress(OSError, ValueError):
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
        return [quota_us / period_us] if quota_us > 0 else []
    return []
