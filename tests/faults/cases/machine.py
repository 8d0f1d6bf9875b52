"""What a machine must allow for some faults to be made."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

EVERYTHING = "FASTLOAD_ALL_FAULTS"
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")


@functools.cache
def no_mounts() -> str | None:
    """Why a process can't have a /dev/shm of its own; None if it can."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        return "needs root and unshare"
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"]
    done = subprocess.run(probe, capture_output=True, check=False)
    return None if done.returncode == 0 else "mount namespaces are not allowed here"


@functools.cache
def no_memory_cgroup() -> str | None:
    """Why a memory cgroup can't be made; None if it can."""
    if not (MEMORY_CGROUPS / "memory.limit_in_bytes").exists():
        return "needs a memory cgroup of version 1 that can be written"
    return None if os.access(MEMORY_CGROUPS, os.W_OK) else "memory cgroups can't be written here"


@functools.cache
def no_pids_cgroup() -> str | None:
    """Why the number of processes can't be limited for a group; None if it can."""
    folder = Path("/sys/fs/cgroup/pids")
    is_writable = folder.is_dir() and os.access(folder, os.W_OK)
    return None if is_writable else "needs a pids cgroup of version 1 that can be written"


def tmpfs(folder: str, size: str) -> list[str]:
    """A command that runs the rest of its line with a small file system in a folder."""
    mount = f'mount -t tmpfs -o size={size} tmpfs {folder} && exec "$@"'
    return ["unshare", "-m", "sh", "-c", mount, "sh"]


def cgroup(controller: str, setting: str, value: str) -> list[str]:
    """A command that runs the rest of its line in a new cgroup, and removes that afterwards."""
    script = (
        f"g=/sys/fs/cgroup/{controller}/fastload-test-$$; mkdir $g; echo {value} > $g/{setting}; "
        'sh -c \'echo $$ > $0/cgroup.procs; exec "$@"\' $g "$@"; code=$?; '
        "for i in 1 2 3 4 5; do rmdir $g 2>/dev/null && break; sleep 0.4; done; exit $code"
    )
    return ["sh", "-c", script, "sh"]


def limit(flags: str) -> list[str]:
    """A command that runs the rest of its line under a limit of the shell's ``ulimit``."""
    return ["sh", "-c", f'ulimit {flags}; exec "$@"', "sh"]


def no_time() -> str | None:
    """Why what takes a minute and several GiB is not done; None if it was asked for."""
    return None if os.environ.get(EVERYTHING) else f"takes long; {EVERYTHING}=1 runs it"
