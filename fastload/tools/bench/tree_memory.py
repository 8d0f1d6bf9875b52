"""Measure how much memory a process and all its descendants hold."""

import contextlib
import re
from pathlib import Path

import psutil

_SHARES = re.compile(r"^Pss_(Anon|Shmem):\s+(\d+) kB", re.MULTILINE)
_SHARED_FILES = "/dev/shm/", "/memfd:"  # noqa: S108  (names in /proc, nothing is created)


def tree_memory_bytes(pid: int) -> int:
    """Return the bytes held by the process tree under `pid`, 0 if it is gone.

    Counted are proportional set sizes (a page that several processes share counts once) of
    anonymous and shared memory. A batch that waits in a queue is mapped by nobody and in no set
    size: so shared memory is what the open files of the tree hold, where that is more. Pages of
    other files are left out: they belong to the page cache, and the share of a library's pages
    depends on who else on the machine has it loaded. Where the system does not tell (only Linux
    does), resident set sizes, which count shared pages many times.
    """
    try:
        leader = psutil.Process(pid)
        members = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return 0
    private, mapped, files = 0, 0, dict[int, int]()
    for member in members:
        shares = _shares(member)
        private += shares["Anon"]
        mapped += shares["Shmem"]
        files |= _shared_files(member)
    return private + max(mapped, sum(files.values()))


def _shares(process: psutil.Process) -> dict[str, int]:
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except (ProcessLookupError, PermissionError, FileNotFoundError):
        return {"Anon": _resident_bytes(process), "Shmem": 0}
    return {"Anon": 0, "Shmem": 0} | {
        kind: 1024 * int(share) for kind, share in _SHARES.findall(rollup)
    }


def _shared_files(process: psutil.Process) -> dict[int, int]:
    """Return the bytes of each file in shared memory that a process has open, by inode."""
    held = {}
    with contextlib.suppress(OSError):  # it has ended, or is another user's
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(link.readlink()).startswith(_SHARED_FILES):
                    status = link.stat()
                    held[status.st_ino] = status.st_blocks * 512
    return held


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
