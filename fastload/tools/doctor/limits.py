"""ProcessLimits on descriptors and processes."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

import psutil

from fastload._system import cgroups
from fastload.tools.doctor.finding import Finding

DESCRIPTORS_A_WORKER = 6
"""Three pipes and what tells of the end of each worker, in the training process."""

DESCRIPTORS_A_POOL = 4

USUAL_WORKERS = 8
"""So many should be possible without a thought."""

PLENTY = 1 << 30
"""Stands for a limit that is none."""

THREADS_A_WORKER = 8
"""One process; the rest are threads of the libraries that a dataset calls."""


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """What this process may open and start.

    Attributes:
        files: Soft limit of open files.
        files_hard: What it can be raised to without privileges.
        files_open: Open now.
        processes_room: Processes and threads that may still be started; None: no limit.
        processes_why: What limits them.
    """

    files: int
    files_hard: int
    files_open: int
    processes_room: int | None = None
    processes_why: str = "unlimited"


def observe() -> ProcessLimits:
    """Look at this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    rooms = [(room, "pids cgroup") for room in cgroups.process_rooms()]
    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if most != resource.RLIM_INFINITY and os.geteuid() != 0:  # root is exempt
        rooms.append((max(0, most - _threads_of_user()), "ulimit -u"))
    room, why = min(rooms, default=(None, "unlimited"))
    return ProcessLimits(
        files=soft if soft != resource.RLIM_INFINITY else PLENTY,
        files_hard=hard if hard != resource.RLIM_INFINITY else PLENTY,
        files_open=psutil.Process().num_fds(),
        processes_room=room,
        processes_why=why,
    )


def judge(limits: ProcessLimits) -> list[Finding]:
    """Say what is to be said about them."""
    return [_judge_files(limits), _judge_processes(limits)]


def _judge_files(limits: ProcessLimits) -> Finding:
    room = limits.files - limits.files_open
    workers = max(0, room - DESCRIPTORS_A_POOL) // DESCRIPTORS_A_WORKER
    found = f"{limits.files:,}, of which {limits.files_open} open: enough for {workers:,} workers"
    cure = (
        f"ulimit -n {limits.files_hard}"
        if limits.files_hard > limits.files
        else "raise the hard limit (limits.conf nofile, systemd LimitNOFILE, docker --ulimit)"
    )
    if workers < 1:
        return Finding("open files", "bad", found, cure)
    if limits.files < 1024 or workers < USUAL_WORKERS:
        words = "; torch's own loader also needs one for each tensor that is kept"
        return Finding("open files", "warn", found, cure + words)
    return Finding("open files", "ok", found)


def _judge_processes(limits: ProcessLimits) -> Finding:
    name = "processes"
    if limits.processes_room is None:
        return Finding(name, "ok", "unlimited")
    found = f"{limits.processes_room:,} more may start ({limits.processes_why})"
    cure = (
        "raise pids.max (docker --pids-limit, systemd TasksMax, Kubernetes podPidsLimit)"
        if limits.processes_why == "pids cgroup"
        else "raise ulimit -u, or end what else you run"
    )
    if limits.processes_room < THREADS_A_WORKER:
        return Finding(name, "bad", found, cure)
    if limits.processes_room < USUAL_WORKERS * THREADS_A_WORKER:
        return Finding(name, "warn", found, cure)
    return Finding(name, "ok", found)


def _threads_of_user() -> int:
    """What ``RLIMIT_NPROC`` is compared with: threads of all this user's processes."""
    user, total = os.getuid(), 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        uids = process.info["uids"]
        if uids is not None and uids.real == user:
            total += process.info["num_threads"] or 1
    return total
