"""Cores: how many there are, how many may be used, and how many threads want them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastload import cgroups
from fastload.bench.machine import BUSY_LOAD, usable_cores
from fastload.doctor.finding import Finding

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What sets the threads of torch's and NumPy's kernels, in this process and in workers."""


@dataclass(frozen=True, slots=True)
class Cores:
    """What there is to compute with.

    Attributes:
        machine: Cores of the machine.
        affinity: Cores this process may run on.
        quota: CPU seconds a second that the cgroup allows, in cores; None: no limit.
        load: Load average of the last minute.
        ranks: Training processes on this machine, by ``LOCAL_WORLD_SIZE``.
        torch_threads: ``torch.get_num_threads()``; None where torch can't be imported.
        variables: Those of ``THREAD_VARIABLES`` that are set.
    """

    machine: int
    affinity: int
    quota: float | None = None
    load: float = 0.0
    ranks: int = 1
    torch_threads: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> int:
        """Whole cores for one training process and its workers; one at least."""
        cores = self.affinity if self.quota is None else min(self.affinity, self.quota)
        return max(1, math.floor(cores / self.ranks))


def observe(torch_threads: int | None) -> Cores:
    """Look at this process."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return Cores(
        machine=os.cpu_count() or 1,
        affinity=usable_cores(),
        quota=cgroups.cpu_quota_cores(),
        load=os.getloadavg()[0],
        ranks=max(1, int(ranks)) if ranks.isdecimal() else 1,
        torch_threads=torch_threads,
        variables={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    )


def judge(cores: Cores) -> list[Finding]:
    """Say what is to be said about them."""
    return [_judge_cores(cores), _judge_affinity(cores), _judge_quota(cores), _judge_threads(cores)]


def _judge_cores(cores: Cores) -> Finding:
    found = f"{cores.usable} for a training process and its workers; load {cores.load:.1f}"
    if cores.ranks > 1:
        found += f"; {cores.ranks} ranks share this machine (LOCAL_WORLD_SIZE)"
    if cores.usable == 1:
        return Finding(
            "cores",
            "warn",
            found,
            "workers and training take turns: only waiting for storage overlaps; give the job "
            "more cores, or use num_workers=0 where __getitem__ computes",
        )
    if cores.load > BUSY_LOAD * cores.machine:
        return Finding("cores", "warn", found, "others use this machine now: mistrust timings")
    return Finding("cores", "ok", found)


def _judge_affinity(cores: Cores) -> Finding:
    found = f"{cores.affinity} of {cores.machine}"
    if cores.affinity < cores.machine:
        return Finding(
            "affinity",
            "warn",
            found,
            "if nobody meant that: look at taskset, numactl, cpuset, the scheduler's --cpus, and "
            "at libraries that pin threads (GOMP_CPU_AFFINITY, KMP_AFFINITY)",
        )
    return Finding("affinity", "ok", found)


def _judge_quota(cores: Cores) -> Finding:
    if cores.quota is None:
        return Finding("CPU quota", "ok", "no limit by a cgroup")
    found = f"{cores.quota:g} cores"
    if cores.quota < cores.affinity:
        return Finding(
            "CPU quota",
            "warn",
            f"{found}, while {cores.affinity} are visible",
            f"at most {cores.usable} workers; libraries that count cores start too many threads: "
            f"OMP_NUM_THREADS={cores.usable}; or raise the quota (docker --cpus, Kubernetes "
            "resources.limits.cpu)",
        )
    return Finding("CPU quota", "ok", found)


def _judge_threads(cores: Cores) -> Finding:
    known = "unknown" if cores.torch_threads is None else str(cores.torch_threads)
    settings = ", ".join(f"{name}={value}" for name, value in cores.variables.items())
    found = f"torch uses {known} in this process and 1 in each worker; {settings or 'no limit set'}"
    wanted = [int(value) for value in cores.variables.values() if value.isdecimal()]
    most = max([*wanted, cores.torch_threads or 0])
    if most > cores.usable:
        return Finding(
            "threads",
            "warn",
            found,
            f"{most} threads for {cores.usable} usable cores get in each other's way: "
            f"torch.set_num_threads({cores.usable}), OMP_NUM_THREADS={cores.usable}",
        )
    if cores.torch_threads == 1 and cores.usable > 1 and cores.variables:
        return Finding(
            "threads",
            "warn",
            found,
            "a training step on the CPU uses one core (torchrun sets OMP_NUM_THREADS=1); if the "
            f"step computes there: OMP_NUM_THREADS={cores.usable}",
        )
    return Finding("threads", "ok", found)
