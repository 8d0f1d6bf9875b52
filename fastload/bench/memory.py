"""How much memory a process and all its descendants hold."""

import re
from pathlib import Path

import psutil

_SHARES = re.compile(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


def tree_memory_bytes(pid: int) -> int:
    """Return the bytes held by the process tree under `pid`, 0 if it is gone.

    Counted are proportional set sizes (a page that several processes share counts once) of
    anonymous and shared memory. Pages of files are left out: they belong to the page cache, and
    the share of a library's pages depends on who else on the machine has it loaded. Where the
    system does not tell (only Linux does), resident set sizes, which count shared pages many times.
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
    return 1024 * sum(int(share) for share in _SHARES.findall(rollup))


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
