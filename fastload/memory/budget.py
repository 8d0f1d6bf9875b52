"""How much shared memory a pool of workers may take.

The arena counts towards the memory cgroup, and exceeding that kills the process instead of
failing a call; so the limit is known before anything is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

SHARE = 4
"""A pool takes at most one part in this many of what is free when it starts."""

LARGEST_BYTES = 1 << 40


def default_limit_bytes() -> int:
    """A quarter of what is free, by the machine's account and by every enclosing cgroup's."""
    free_bytes = int(psutil.virtual_memory().available)
    for room_bytes in _cgroup_rooms():
        free_bytes = min(free_bytes, room_bytes)
    return min(free_bytes // SHARE, LARGEST_BYTES)


def address_space_limit_bytes() -> int:
    """A quarter of the address space that ``RLIMIT_AS`` still allows."""
    limit_bytes = psutil.Process().rlimit(psutil.RLIMIT_AS)[0] if sys.platform == "linux" else -1
    if limit_bytes < 0:
        return LARGEST_BYTES
    return max(0, limit_bytes - int(psutil.Process().memory_info().vms)) // SHARE


def _cgroup_rooms() -> list[int]:
    """Limit minus usage of every memory cgroup this process is in (versions 1 and 2)."""
    rooms = []
    for folder, limit_name, usage_name in _cgroup_folders():
        limit = _read_number(folder / limit_name)
        usage = _read_number(folder / usage_name)
        if limit is not None and usage is not None:
            rooms.append(max(0, limit - usage))
    return rooms


def _cgroup_folders() -> list[tuple[Path, str, str]]:
    folders: list[tuple[Path, str, str]] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = Path("/sys/fs/cgroup/memory")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        inner = root / path.lstrip("/")
        folders += [
            (folder, *names) for folder in (inner, *inner.parents) if folder.is_relative_to(root)
        ]
    return folders


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or "max": no limit
        return None
