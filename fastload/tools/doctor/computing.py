"""Examine the cores: how many there are, how many may be used, how many threads want them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastload._system.cores import Cores, find_cores
from fastload.tools.bench.machine import BUSY_LOAD, load_average
from fastload.tools.doctor.finding import Finding
from fastload.tools.words import counted

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What sets the threads of torch's and NumPy's kernels, in this process and in workers."""


@dataclass(frozen=True, slots=True)
class Computing:
    """The cores, and the threads that will want them.

    Attributes:
        cores: What limits the cores that may be used.
        machine: Cores of the machine.
        load: Load average of the last minute.
        torch_threads: ``torch.get_num_threads()``; None where torch can't be imported.
        variables: Those of ``THREAD_VARIABLES`` that are set.
    """

    cores: Cores
    machine: int
    load: float = 0.0
    torch_threads: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> int:
        """Return the whole cores for one training process and its workers; one at least."""
        return max(1, math.floor(self.cores.usable))


def observe(torch_threads: int | None) -> Computing:
    """Look at the cores and threads of this process."""
    return Computing(
        cores=find_cores(),
        machine=os.cpu_count() or 1,
        load=load_average(),
        torch_threads=torch_threads,
        variables={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    )


def judge(of: Computing) -> list[Finding]:
    """Judge number, affinity and quota of the cores, and the threads."""
    return [_judge_cores(of), _judge_affinity(of), _judge_quota(of), _judge_threads(of)]


def _judge_cores(of: Computing) -> Finding:
    found = f"{of.whole} for a training process and its workers; load {of.load:.1f}"
    if of.cores.ranks > 1:
        found += f"; {of.cores.ranks} ranks share this machine (LOCAL_WORLD_SIZE)"
    if of.whole == 1:
        return Finding(
            "cores",
            "warn",
            found,
            "workers and training take turns: only waiting for storage overlaps; give the job "
            "more cores, or use num_workers=0 where __getitem__ computes",
        )
    if of.load > BUSY_LOAD * of.machine:
        return Finding("cores", "warn", found, "others use this machine now: mistrust timings")
    return Finding("cores", "ok", found)


def _judge_affinity(of: Computing) -> Finding:
    found = f"{of.cores.affinity} of {of.machine}"
    if of.cores.affinity < of.machine:
        return Finding(
            "affinity",
            "warn",
            found,
            "if nobody meant that: look at taskset, numactl, cpuset, the scheduler's --cpus, and "
            "at libraries that pin threads (GOMP_CPU_AFFINITY, KMP_AFFINITY)",
        )
    return Finding("affinity", "ok", found)


def _judge_quota(of: Computing) -> Finding:
    if of.cores.quota is None:
        return Finding("CPU quota", "ok", "no limit by a cgroup")
    found = counted(of.cores.quota, "core")
    if of.cores.quota < of.cores.affinity:
        return Finding(
            "CPU quota",
            "warn",
            f"{found}, while {of.cores.affinity} are visible",
            f'num_workers={of.whole} at most, or "auto"; libraries that count cores start '
            f"too many threads: OMP_NUM_THREADS={of.whole}; or raise the quota (docker "
            "--cpus, Kubernetes resources.limits.cpu)",
        )
    return Finding("CPU quota", "ok", found)


def _judge_threads(of: Computing) -> Finding:
    known = "unknown" if of.torch_threads is None else str(of.torch_threads)
    settings = ", ".join(f"{name}={value}" for name, value in of.variables.items())
    found = f"torch uses {known} in this process and 1 in each worker; {settings or 'no limit set'}"
    wanted = [int(value) for value in of.variables.values() if value.isdecimal()]
    most = max([*wanted, of.torch_threads or 0])
    if most > of.whole:
        return Finding(
            "threads",
            "warn",
            found,
            f"{most} threads for {counted(of.whole, 'usable core')} get in each other's way: "
            f"torch.set_num_threads({of.whole}), OMP_NUM_THREADS={of.whole}",
        )
    if of.torch_threads == 1 and of.whole > 1 and of.variables:
        return Finding(
            "threads",
            "warn",
            found,
            "a training step on the CPU uses one core (torchrun sets OMP_NUM_THREADS=1); if the "
            f"step computes there: OMP_NUM_THREADS={of.whole}",
        )
    return Finding("threads", "ok", found)
