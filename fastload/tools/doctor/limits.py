"""Examine how many files this process may open, and how many processes it may start."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import psutil

from fastload._system import cgroups
from fastload.tools.doctor.finding import Finding
from fastload.tools.words import counted

DESCRIPTORS_A_WORKER = 6
"""Three pipes and what tells of the end of each worker, in the training process."""

DESCRIPTORS_A_POOL = 4

USUAL_WORKERS = 8
"""So many workers should be possible without raising a limit."""

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
    """Look at the limits of this process and of its control groups."""
    rooms = [(room, "pids cgroup") for room in cgroups.process_rooms()]
    most = soft_limit("RLIMIT_NPROC")
    if most is not None and os.geteuid() != 0:  # root is exempt
        rooms.append((max(0, most - _threads_of_user()), "ulimit -u"))
    room, why = min(rooms, default=(None, "unlimited"))
    return ProcessLimits(
        files=soft_limit("RLIMIT_NOFILE") or PLENTY,
        files_hard=hard_limit("RLIMIT_NOFILE") or PLENTY,
        files_open=_open_files(),
        processes_room=room,
        processes_why=why,
    )


def soft_limit(name: str) -> int | None:
    """Return a limit of this process, such as `RLIMIT_AS`; None where there is none."""
    return _limit(name, 0)


def hard_limit(name: str) -> int | None:
    """Return what a limit can be raised to without privileges; None where there is none."""
    return _limit(name, 1)


def _limit(name: str, which: int) -> int | None:
    try:
        import resource  # not every system has it, nor each of its limits
    except ImportError:
        return None
    number = getattr(resource, name, None)
    limit = resource.RLIM_INFINITY if number is None else resource.getrlimit(number)[which]
    return None if limit == resource.RLIM_INFINITY else limit


def _open_files() -> int:
    with contextlib.suppress(AttributeError, psutil.Error):  # not on every system
        return int(psutil.Process().num_fds())
    return 0


def judge(limits: ProcessLimits) -> list[Finding]:
    """Judge the limits on open files and on processes."""
    return [_judge_files(limits), _judge_processes(limits)]


def _judge_files(limits: ProcessLimits) -> Finding:
    if limits.files >= PLENTY:
        return Finding("open files", "ok", "unlimited")
    room = limits.files - limits.files_open
    workers = max(0, room - DESCRIPTORS_A_POOL) // DESCRIPTORS_A_WORKER
    room_words = f"enough for {counted(workers, 'worker')}"
    found = f"{limits.files:,}, of which {limits.files_open} open: {room_words}"
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
    """Count the threads of this user's processes: ``RLIMIT_NPROC`` is compared with them."""
    user, total = os.getuid(), 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        uids = process.info["uids"]
        if uids is not None and uids.real == user:
            total += process.info["num_threads"] or 1
    return total
