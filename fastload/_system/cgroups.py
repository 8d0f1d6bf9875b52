"""The control groups around this process (versions 1 and 2): cores, processes and memory.

Runs in: consumer.
Takes: the kernel's files; nothing where there are none.
Gives: what is allowed. Each enclosing group counts: the tightest one decides.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class ControlGroup(NamedTuple):
    """A group's folder, and whether it is of version 2."""

    folder: Path
    is_v2: bool


def groups(controller: str, root: Path = ROOT) -> tuple[ControlGroup, ...]:
    """Every group around this process, innermost first.

    Args:
        controller: Such as ``"memory"``, ``"cpu"``, ``"pids"``.
        root: Where ``proc`` and ``sys`` are found.
    """
    return _groups_in(read(root / "proc/self/cgroup"), controller, root)


@functools.lru_cache(maxsize=8)
def _groups_in(text: str, controller: str, root: Path) -> tuple[ControlGroup, ...]:
    found: list[ControlGroup] = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        is_v2 = controllers == ""
        if not is_v2 and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("" if is_v2 else controller)
        inner = top / path.lstrip("/")
        # In a container the path is the host's and only its top is mounted; the rest is not there.
        found += [
            ControlGroup(folder, is_v2)
            for folder in (inner, *inner.parents)
            if folder.is_relative_to(top)
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
    """A file's text without the spaces around it; empty where it can't be read.

    The name of a group may hold any bytes, whatever the program's locale.
    """
    try:
        return os.fsdecode(file.read_bytes()).strip()
    except OSError:
        return ""


class MemoryGroup(NamedTuple):
    """One memory cgroup: its folder and the names of its files."""

    folder: Path
    limit: str
    usage: str
    events: str

    def limit_bytes(self) -> int | None:
        """The limit; None if there is none."""
        limit = _number(read(self.folder / self.limit))
        return None if limit is None or limit >= NO_LIMIT_BYTES else limit

    def room_bytes(self) -> int | None:
        """How much may still be used; None if that is not limited."""
        limit, usage = self.limit_bytes(), _number(read(self.folder / self.usage))
        return None if limit is None or usage is None else max(0, limit - usage)

    def oom_kills(self) -> int:
        """Processes that were killed because memory ran out in here."""
        return _counter(self.folder / self.events, "oom_kill")


NO_LIMIT_BYTES = 1 << 60
"""Version 1 writes the largest number it has where there is no limit."""

V2 = "memory.max", "memory.current", "memory.events"
V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"


def memory_cgroups() -> list[MemoryGroup]:
    """The memory groups that this process is in, the innermost first."""
    return [MemoryGroup(folder, *(V2 if is_v2 else V1)) for folder, is_v2 in groups("memory")]


class Kills(NamedTuple):
    """How many processes the kernel's OOM killer has ended: a rise says that it struck."""

    in_cgroup: int
    in_system: int


def oom_kills() -> Kills:
    """Read how many processes the OOM killer has ended by now."""
    return Kills(
        sum(cgroup.oom_kills() for cgroup in memory_cgroups()),
        _counter(Path("/proc/vmstat"), "oom_kill"),
    )


def smallest_limit_bytes() -> int | None:
    """The tightest limit around this process; None if there is none."""
    limits = [cgroup.limit_bytes() for cgroup in memory_cgroups()]
    return min((limit for limit in limits if limit is not None), default=None)


def _counter(file: Path, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", read(file), re.MULTILINE)
    return int(found[1]) if found else 0


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:  # "", or "max": no limit
        return None
