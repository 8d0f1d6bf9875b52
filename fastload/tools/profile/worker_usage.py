"""Ask the system about the workers: memory, CPU time, reading, waiting for a core.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import psutil

from fastload._system.cores import core_wait_s


class Seen(NamedTuple):
    """What all workers have used until now; without workers, what this process has.

    Attributes:
        largest_bytes: Memory that is one's alone, the largest.
        read_bytes: What all have read from storage.
        core_wait_s: How long all were ready to run without a core.
        cpu_s: CPU time of all.
        idle_s: How long the cores that this process may use have been idle, all together.
    """

    largest_bytes: int
    read_bytes: int
    core_wait_s: float
    cpu_s: float
    idle_s: float

    def since(self, before: Seen) -> Seen:
        """Return what was used from another look to this one; the largest memory is this one's."""
        return Seen(
            self.largest_bytes,
            max(0, self.read_bytes - before.read_bytes),
            max(0.0, self.core_wait_s - before.core_wait_s),
            max(0.0, self.cpu_s - before.cpu_s),
            max(0.0, self.idle_s - before.idle_s),
        )


NOTHING_SEEN = Seen(0, 0, 0.0, 0.0, 0.0)


def look_at_workers() -> Seen:
    """Ask the system about all children of this process, which takes some milliseconds."""
    largest, read, waited_s, cpu_s = 0, 0, 0.0, 0.0
    me = psutil.Process()
    for child in me.children(recursive=True) or [me]:
        with contextlib.suppress(psutil.Error, AttributeError):
            times = child.cpu_times()
            cpu_s += times.user + times.system
            if child is not me:
                largest = max(largest, int(child.memory_full_info().uss))
            read += int(child.io_counters().read_bytes)
        waited_s += _threads_core_wait_s(child.pid)
    return Seen(largest, read, waited_s, cpu_s, _idle_s())


def _idle_s() -> float:
    """Return how long the cores that this process may use have been idle since the system began."""
    times = psutil.cpu_times(percpu=True)
    me = psutil.Process()
    ours = me.cpu_affinity() if hasattr(me, "cpu_affinity") else []
    mine = [times[core] for core in ours or range(len(times)) if core < len(times)]
    return float(sum(each.idle + getattr(each, "iowait", 0.0) for each in mine))


def _threads_core_wait_s(pid: int) -> float:
    """Return how long a process waited for cores: its main thread and the worst of the others.

    A dataset that waits for its own threads waits for the slowest of them; to add all up would
    count the same moments several times.
    """
    try:
        threads = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    except (OSError, ValueError):
        return core_wait_s(pid)
    others = (core_wait_s(f"{pid}/task/{thread}") for thread in threads if thread != pid)
    return core_wait_s(pid) + max(others, default=0.0)
