"""The control groups around this process (versions 1 and 2): cores and processes.

Each enclosing group counts: the tightest one decides. `memory/cgroups.py` reads the memory groups.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class Group(NamedTuple):
    """A group's folder, and whether it is of version 2."""

    folder: Path
    is_v2: bool


def groups(controller: str, root: Path = ROOT) -> tuple[Group, ...]:
    """Every group around this process, innermost first.

    Args:
        controller: Such as ``"memory"``, ``"cpu"``, ``"pids"``.
        root: Where ``proc`` and ``sys`` are found.
    """
    return _groups_in(read(root / "proc/self/cgroup"), controller, root)


@functools.lru_cache(maxsize=8)
def _groups_in(text: str, controller: str, root: Path) -> tuple[Group, ...]:
    found: list[Group] = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        is_v2 = controllers == ""
        if not is_v2 and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("" if is_v2 else controller)
        inner = top / path.lstrip("/")
        # In a container the path is the host's and only its top is mounted; the rest is not there.
        found += [
            Group(folder, is_v2) for folder in (inner, *inner.parents) if folder.is_relative_to(top)
        ]
    return tuple(found)


def process_rooms(root: Path = ROOT) -> list[int]:
    """How many processes and threads each group with a limit still allows."""
    rooms = []
    for folder, _ in groups("pids", root):
        limit, usage = read(folder / "pids.max"), read(folder / "pids.current")
        if limit.isdecimal() and usage.isdecimal():  # no limit reads "max"
            rooms.append(max(0, int(limit) - int(usage)))
    return rooms


def cpu_quota_cores(root: Path = ROOT) -> float | None:
    """The CPU time per second that the tightest group allows, in cores; None: no limit."""
    quotas = []
    for folder, is_v2 in groups("cpu", root):
        if is_v2:
            words = read(folder / "cpu.max").split()
        else:
            words = [read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal():
            quotas.append(int(words[0]) / int(words[1]))  # no limit is "max" or -1
    return min(quotas, default=None)


def read(file: Path) -> str:
    """A file's text without the spaces around it; empty where it can't be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
