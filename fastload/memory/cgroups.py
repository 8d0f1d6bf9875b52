"""The memory cgroups around this process: their limits, and whom the kernel has killed for them.

Runs in: consumer.
Takes: the kernel's files (cgroup versions 1 and 2); nothing where there are none.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from fastload.cgroups import groups


class Cgroup(NamedTuple):
    """One memory cgroup: its folder and the names of its files."""

    folder: Path
    limit: str
    usage: str
    events: str

    def limit_bytes(self) -> int | None:
        """The limit; None if there is none."""
        limit = _number(_read(self.folder / self.limit))
        return None if limit is None or limit >= NO_LIMIT_BYTES else limit

    def room_bytes(self) -> int | None:
        """How much may still be used; None if that is not limited."""
        limit, usage = self.limit_bytes(), _number(_read(self.folder / self.usage))
        return None if limit is None or usage is None else max(0, limit - usage)

    def oom_kills(self) -> int:
        """Processes that were killed because memory ran out in here."""
        return _counter(self.folder / self.events, "oom_kill")


NO_LIMIT_BYTES = 1 << 60
"""Version 1 writes the largest number it has where there is no limit."""

V2 = "memory.max", "memory.current", "memory.events"
V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"


def memory_cgroups() -> list[Cgroup]:
    """Those this process is in, the innermost first."""
    return [Cgroup(folder, *(V2 if is_v2 else V1)) for folder, is_v2 in groups("memory")]


class Kills(NamedTuple):
    """How many processes the kernel's OOM killer has ended: a rise says that it struck.

    ``limit_bytes`` is the smallest limit around this process.
    """

    in_cgroup: int
    in_system: int
    limit_bytes: int | None


def oom_kills() -> Kills:
    """As of now."""
    cgroups = memory_cgroups()
    limits = [limit for cgroup in cgroups if (limit := cgroup.limit_bytes()) is not None]
    return Kills(
        sum(cgroup.oom_kills() for cgroup in cgroups),
        _counter(Path("/proc/vmstat"), "oom_kill"),
        min(limits, default=None),
    )


def _counter(file: Path, name: str) -> int:
    for line in _read(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _number(value) or 0
    return 0


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:  # "", or "max": no limit
        return None


def _read(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text()
    return ""
