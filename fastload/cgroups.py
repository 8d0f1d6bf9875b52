"""What the control groups around this process allow (versions 1 and 2).

Each enclosing group counts: the tightest one decides.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")


def folders(controller: str, root: Path = ROOT) -> list[Path]:
    """The folders of every group around this process, innermost first.

    Args:
        controller: Such as ``"memory"``, ``"cpu"``, ``"pids"``.
        root: Where ``proc`` and ``sys`` are found.
    """
    found: list[Path] = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        inner = top / path.lstrip("/")
        # In a container the path is the host's and only its top is mounted; the rest is not there.
        found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return found


def memory_rooms_bytes(root: Path = ROOT) -> list[int]:
    """Limit minus usage of every memory group that has a limit."""
    return _rooms("memory", "memory.max", "memory.current", root) + _rooms(
        "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", root
    )


def process_rooms(root: Path = ROOT) -> list[int]:
    """How many processes and threads each group with a limit still allows."""
    return _rooms("pids", "pids.max", "pids.current", root)


def cpu_quota_cores(root: Path = ROOT) -> float | None:
    """The CPU time per second that the tightest group allows, in cores; None: no limit."""
    quotas = []
    for folder in folders("cpu", root):
        words = _read(folder / "cpu.max").split()
        if not words:
            words = [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal():
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _rooms(controller: str, limit_name: str, usage_name: str, root: Path) -> list[int]:
    rooms = []
    for folder in folders(controller, root):
        limit, usage = _read(folder / limit_name), _read(folder / usage_name)
        if limit.isdecimal() and usage.isdecimal():  # no limit reads "max"
            rooms.append(max(0, int(limit) - int(usage)))
    return rooms


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
