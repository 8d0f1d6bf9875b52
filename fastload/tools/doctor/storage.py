"""Examine the file system that a path lies on."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from fastload.tools.doctor.finding import Finding, gibibytes

NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs"),
    *("nfs", "nfs4", "ocfs2", "orangefs", "panfs", "smb3", "smbfs", "virtiofs", "wekafs"),
    *("fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.juicefs"),
    *("fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
}
"""What /proc/self/mountinfo calls file systems whose files lie on another machine."""

LITTLE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class MountedPath:
    """A path and the file system it lies on.

    Attributes:
        path: As given.
        kind: The file system's type; None where the system does not tell.
        mounted_at: Where it is mounted.
        free_bytes: What is free there.
        is_writable: Whether this process may write there.
    """

    path: Path
    kind: str | None
    mounted_at: str
    free_bytes: int
    is_writable: bool = True


def observe(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> MountedPath:
    """Look up the file system of a path that exists."""
    mounts = _mounts(mountinfo)
    real = Path(os.path.realpath(path))
    at = max(
        (at for at in mounts if real.is_relative_to(at)),
        key=lambda at: len(Path(at).parts),
        default="",
    )
    usage = shutil.disk_usage(path)
    is_writable = usage.total > 0 and os.access(path, os.W_OK)  # /proc has no size
    return MountedPath(path, mounts.get(at), at, usage.free, is_writable)


def judge(place: MountedPath) -> Finding:
    """Judge whether reading from there is slow, and whether there is room."""
    name = "file system"
    kind = place.kind or "unknown"
    found = f"{place.path}: {kind}, {gibibytes(place.free_bytes)} free"
    if kind in NETWORK:
        return Finding(
            name,
            "warn",
            f"{found}: a network file system (mounted at {place.mounted_at})",
            "opening many small files waits for the network each time: copy the data to a local "
            "disk, pack samples into few large files (Arrow, Parquet, tar), or use more workers "
            "than cores, since they wait and don't compute",
        )
    if kind.startswith("fuse"):
        return Finding(
            name,
            "warn",
            found,
            "served by a program, often from a network: compare with a local disk",
        )
    if place.is_writable and place.free_bytes < LITTLE_BYTES:
        return Finding(
            name, "warn", found, "nearly full: make room before anything is written there"
        )
    return Finding(name, "ok", found)


def _mounts(mountinfo: Path) -> dict[str, str]:
    """Return the file system type at each mount point; of several at one, the last one."""
    mounts = {}
    try:
        lines = mountinfo.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return {}
    for line in lines:
        before, _, after = line.partition(" - ")
        at = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
        mounts[at] = after.split(" ")[0]
    return mounts
