"""How much memory a process and all its descendants hold."""

import re
from pathlib import Path

import psutil

_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def tree_memory_bytes(pid: int) -> int:
    """Return the bytes held by the process tree under `pid`, 0 if it is gone.

    A page that several processes share counts once: the proportional set sizes are added up. Where
    the system does not tell them (only Linux does), resident set sizes, which count it many times.
    """
    try:
        leader = psutil.Process(pid)
        members = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return 0
    return sum(_memory_bytes(member) for member in members)


def _memory_bytes(process: psutil.Process) -> int:
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except (ProcessLookupError, PermissionError, FileNotFoundError):
        return _resident_bytes(process)
    found = _PSS.search(rollup)
    return int(found[1]) * 1024 if found else 0


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
