"""What is said of machines that one does not have: each record is made up, each verdict is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastload._system import cgroups
from fastload._system.cores import Cores
from fastload.tools.doctor import (
    Finding,
    accelerator,
    computing,
    kernel,
    limits,
    memory,
    storage,
    worst,
)

GIB = 1 << 30


def verdicts(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in findings}


def a_machine(
    machine: int, affinity: int, quota: float | None = None, ranks: int = 1, **more: Any
) -> computing.Computing:
    return computing.Computing(Cores(affinity, quota, ranks), machine, **more)


def cure_of(name: str, findings: list[Finding]) -> str:
    return next(finding.cure for finding in findings if finding.name == name)


def test_healthy_machine_has_nothing_to_cure() -> None:
    """Eight cores of eight, plenty of memory, no limits: every verdict is ok, no cure is named."""
    findings = [
        *computing.judge(a_machine(8, 8, torch_threads=8)),
        *memory.judge(
            memory.Memory(
                total=64 * GIB,
                available=60 * GIB,
                pool_limit=15 * GIB,
                shm_total=32 * GIB,
                shm_free=32 * GIB,
            )
        ),
        *limits.judge(limits.ProcessLimits(files=65536, files_hard=65536, files_open=10)),
        *accelerator.judge(accelerator.Accelerator(torch="2.13.0", threads=8)),
        storage.judge(storage.MountedPath(Path("/data"), "ext4", "/", 100 * GIB)),
    ]
    assert {finding.verdict for finding in findings} == {"ok"}
    assert not any(finding.cure for finding in findings)
    assert worst(findings) == "ok"


def test_quota_below_the_visible_cores_names_the_number_of_workers() -> None:
    """A container with 2.5 of 64 cores: two workers at most, two threads."""
    findings = computing.judge(a_machine(64, 64, quota=2.5, torch_threads=64))
    assert verdicts(findings)["CPU quota"] == "warn"
    assert "num_workers=2 at most" in cure_of("CPU quota", findings)
    assert verdicts(findings)["threads"] == "warn"
    assert "torch.set_num_threads(2)" in cure_of("threads", findings)


def test_ranks_share_the_cores() -> None:
    """Eight ranks on sixteen cores leave two cores each."""
    facts = a_machine(16, 16, ranks=8, torch_threads=2)
    assert facts.whole == 2
    assert "8 ranks" in computing.judge(facts)[0].found


def test_ranks_share_the_memory() -> None:
    """Each rank's pool has its part, and the line says so."""
    facts = memory.Memory(total=64 * GIB, available=60 * GIB, pool_limit=2 * GIB, ranks=8)
    found = memory.judge(facts)[0].found
    assert "takes 2.0 GiB at most in each of the 8 ranks on this machine" in found


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (a_machine(1, 1), "cores"),
        (a_machine(4, 4, load=3.0), "cores"),
        (a_machine(4, 1), "affinity"),
        (a_machine(4, 4, variables={"MKL_NUM_THREADS": "32"}), "threads"),
        (
            a_machine(8, 8, torch_threads=1, variables={"OMP_NUM_THREADS": "1"}),
            "threads",
        ),
    ],
)
def test_scarce_cores_are_a_warning_with_a_cure(facts: computing.Computing, name: str) -> None:
    """One core, a busy machine, a narrow affinity, too many threads, a single one."""
    findings = computing.judge(facts)
    assert verdicts(findings)[name] == "warn"
    assert cure_of(name, findings)


def test_little_memory_in_a_cgroup_is_a_warning() -> None:
    """A pool of 100 MiB: the limit is named, and how it is raised."""
    findings = memory.judge(
        memory.Memory(
            total=64 * GIB, available=60 * GIB, pool_limit=100 << 20, cgroup_room=400 << 20
        )
    )
    assert verdicts(findings)["memory"] == "warn"
    assert "400 MiB" in findings[0].found
    assert "docker --memory" in cure_of("memory", findings)


@pytest.mark.parametrize("shm", [None, 64 << 20])
def test_small_shared_memory_is_a_warning_about_torch(shm: int | None) -> None:
    """Docker's 64 MiB, or none at all: fastload does without, torch's loader does not."""
    facts = memory.Memory(
        total=GIB, available=GIB, pool_limit=GIB, shm_total=shm, shm_free=shm or 0
    )
    finding = memory.judge(facts)[1]
    assert finding.verdict == "warn"
    assert "torch's own loader" in finding.cure


@pytest.mark.parametrize(("room", "verdict"), [(8 * GIB, "warn"), (1 << 20, "bad")])
def test_limited_address_space_is_told(room: int, verdict: str) -> None:
    """Bad where hardly anything can be mapped."""
    facts = memory.Memory(
        total=GIB,
        available=GIB,
        pool_limit=GIB,
        address_space=4 * room,
        address_space_for_pool=room,
    )
    finding = memory.judge(facts)[2]
    assert finding.verdict == verdict
    assert "ulimit -v" in finding.cure


@pytest.mark.parametrize(
    ("facts", "verdict", "cure"),
    [
        (limits.ProcessLimits(files=16, files_hard=4096, files_open=10), "bad", "ulimit -n 4096"),
        (limits.ProcessLimits(files=256, files_hard=4096, files_open=10), "warn", "ulimit -n 4096"),
        (limits.ProcessLimits(files=256, files_hard=256, files_open=10), "warn", "nofile"),
    ],
)
def test_few_open_files_are_told(facts: limits.ProcessLimits, verdict: str, cure: str) -> None:
    """Bad where not one worker can start; the cure knows the hard limit."""
    finding = limits.judge(facts)[0]
    assert finding.verdict == verdict
    assert cure in finding.cure


@pytest.mark.parametrize(
    ("room", "why", "verdict", "cure"),
    [
        (3, "pids cgroup", "bad", "pids.max"),
        (20, "ulimit -u", "warn", "ulimit -u"),
        (20_000, "ulimit -u", "ok", ""),
    ],
)
def test_room_for_processes_is_judged(room: int, why: str, verdict: str, cure: str) -> None:
    """By how many more may start, and what limits them."""
    facts = limits.ProcessLimits(1024, 1024, 10, processes_room=room, processes_why=why)
    finding = limits.judge(facts)[1]
    assert finding.verdict == verdict
    assert cure in finding.cure


def test_call_that_the_kernel_refuses_is_a_warning() -> None:
    """Fastload goes on without it, and says how."""

    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted")

    finding = kernel.judge((kernel.Call("memfd", "3.17", "shared memory is a file", refuse),))[0]
    assert finding.verdict == "warn"
    assert "Operation not permitted" in finding.found
    assert "shared memory is a file" in finding.found
    assert "Linux 3.17" in finding.cure


@pytest.mark.parametrize(
    ("facts", "name", "verdict"),
    [
        (accelerator.Accelerator(error="ImportError: libtorch.so"), "torch", "bad"),
        (accelerator.Accelerator(torch="2.13.0+cpu", driver=True), "CUDA", "bad"),
        (accelerator.Accelerator(torch="2.13.0", cuda_build="13.0", driver=True), "CUDA", "bad"),
        (accelerator.Accelerator(torch="2.13.0", cuda_build="13.0"), "CUDA", "ok"),
        (
            accelerator.Accelerator(torch="2.13.0", devices=("H100",), is_pinned=False),
            "pinned memory",
            "bad",
        ),
        (
            accelerator.Accelerator(torch="2.13.0", devices=("H100",), is_pinned=True),
            "pinned memory",
            "ok",
        ),
    ],
)
def test_accelerator_that_is_there_must_be_usable(
    facts: accelerator.Accelerator, name: str, verdict: str
) -> None:
    """A driver without a device is bad; no driver at all is not."""
    assert verdicts(accelerator.judge(facts))[name] == verdict


@pytest.mark.parametrize(
    ("kind", "free", "verdict"),
    [
        ("ext4", GIB, "ok"),
        ("ext4", GIB - 1, "warn"),
        ("nfs4", 90 * GIB, "warn"),
        ("lustre", 90 * GIB, "warn"),
        ("fuse.gcsfuse", 90 * GIB, "warn"),
        ("fuse.mystery", 90 * GIB, "warn"),
        (None, 90 * GIB, "ok"),
    ],
)
def test_network_file_systems_are_told(kind: str | None, free: int, verdict: str) -> None:
    """Also what a program serves; what the system does not tell is not guessed."""
    finding = storage.judge(storage.MountedPath(Path("/data"), kind, "/data", free))
    assert finding.verdict == verdict
    assert bool(finding.cure) == (verdict != "ok")


def test_path_lies_on_the_innermost_mount(tmp_path: Path) -> None:
    """Of nested mounts the innermost counts, of several at one point the last; names may be odd."""
    inner = tmp_path / "a b"
    inner.mkdir()
    mountinfo = tmp_path / "mountinfo"
    octal = str(inner).replace(" ", "\\040")
    mountinfo.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 0:3 / {octal} rw shared:1 - tmpfs none rw\n"
        f"3 1 0:4 / {octal} rw - nfs4 server:/x rw\n"
    )
    assert storage.observe(inner, mountinfo).kind == "nfs4"
    assert storage.observe(tmp_path, mountinfo).kind == "ext4"
    assert storage.observe(tmp_path, tmp_path / "none").kind is None


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_quota_of_the_tightest_group_counts(tmp_path: Path) -> None:
    """Version 2: a group may have no limit of its own and still be limited by an outer one."""
    write(tmp_path / "proc/self/cgroup", "0::/jobs/one\n")
    top = tmp_path / "sys/fs/cgroup"
    write(top / "jobs/one/cpu.max", "max 100000\n")
    write(top / "jobs/cpu.max", "250000 100000\n")
    write(top / "jobs/pids.max", "10\n")
    write(top / "jobs/pids.current", "12\n")
    assert cgroups.cpu_quota_cores(tmp_path) == 2.5
    folders = [group.folder for group in cgroups.groups("memory", tmp_path)]
    assert folders == [top / "jobs/one", top / "jobs", top]
    assert cgroups.process_rooms(tmp_path) == [0]


def test_version_1_groups_are_read(tmp_path: Path) -> None:
    """Also where the path is the host's and only its top is mounted."""
    write(tmp_path / "proc/self/cgroup", "3:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
    top = tmp_path / "sys/fs/cgroup"
    write(top / "cpu/cpu.cfs_quota_us", "150000\n")
    write(top / "cpu/cpu.cfs_period_us", "100000\n")
    assert cgroups.cpu_quota_cores(tmp_path) == 1.5
    inner, *_, outer = cgroups.groups("memory", tmp_path)
    assert inner == (top / "memory/docker/abc", False)
    assert outer == (top / "memory", False)


def test_no_cgroup_is_no_limit(tmp_path: Path) -> None:
    """On other systems there are none; a version 1 quota of -1 is none either."""
    assert cgroups.cpu_quota_cores(tmp_path) is None
    write(tmp_path / "proc/self/cgroup", "3:cpu:/\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cgroups.cpu_quota_cores(tmp_path) is None
