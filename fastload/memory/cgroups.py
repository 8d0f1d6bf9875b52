"""The memory cgroups around this process: their limits, and whom the kernel has killed for them.

Runs in: consumer.
Takes: the kernel's files (cgroup versions 1 and 2); nothing where there are none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from fastload.cgroups import groups, read


class Cgroup(NamedTuple):
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


def memory_cgroups() -> list[Cgroup]:
    """Those this process is in, the innermost first."""
    return [Cgroup(folder, *(V2 if is_v2 else V1)) for folder, is_v2 in groups("memory")]


class Kills(NamedTuple):
    """How many processes the kernel's OOM killer has ended: a rise says that it struck."""

    in_cgroup: int
    in_system: int


def oom_kills() -> Kills:
    """As of now."""
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
