"""Machines that have too little of something."""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from tests.faults.case import ALL, Case, add, fault
from tests.faults.cases import machine
from tests.faults.trial import Made, Stamped, Trial, describe, descriptors

LARGE = 1 << 19
"""Elements of a sample of 2 MiB."""


def _shared_memory_is(size: str, collate: str, make: Any) -> None:
    def run(trial: Trial) -> str:
        options = {} if make is None else {"collate_fn": make}
        return trial.read(trial.loader(Stamped(size=LARGE), **options))

    name = f"shm_of_{size}_{collate}_collate"
    text = f"/dev/shm of {size[:-1]} MiB, {collate} collate function, 8 MiB a batch"
    add(
        Case(
            (92 if collate == "default" else 93,),
            name,
            text,
            run,
            f"^{ALL}$",
            deadline_s=20,
            wrapper=machine.tmpfs("/dev/shm", size),
            needs=machine.no_mounts,
        )
    )


for _size in ("1m", "64m"):
    _shared_memory_is(_size, "default", None)
    _shared_memory_is(_size, "custom", list)


def _no_memfd() -> None:
    def refused(*_: Any) -> int:
        raise OSError(38, "Function not implemented")

    os.memfd_create = refused  # type: ignore[assignment]


@fault(
    94,
    "no memfd and a temporary folder of 4 MiB that fills up, 8 MiB a batch",
    expect=f"^{ALL}$|OSError: .*No space left|WorkerDied: .*SIGBUS.*(full|space|temporary)",
    deadline_s=20,
    wrapper=machine.tmpfs("/mnt", "4m"),
    needs=machine.no_mounts,
    is_for_torch=False,
)
def full_temporary_folder(trial: Trial) -> str:
    tempfile.tempdir = "/mnt"
    _no_memfd()
    return trial.read(trial.loader(Stamped(size=LARGE)))


@fault(
    94,
    "RLIMIT_FSIZE of 1 MiB",
    expect=f"^{ALL}$",
)
def file_size_is_limited(trial: Trial) -> str:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    return trial.read(trial.loader(Stamped(size=LARGE)))


@fault(
    95,
    "a memory cgroup of 700 MiB, 32 MiB a batch, eight batches in flight",
    expect=f"^{ALL}$",
    deadline_s=30,
    wrapper=machine.cgroup("memory", "memory.limit_in_bytes", str(700 << 20)),
    needs=machine.no_memory_cgroup,
)
def small_memory_cgroup(trial: Trial) -> str:
    return trial.read(trial.loader(Stamped(size=1 << 21), prefetch_factor=4))


@fault(
    3,
    "a worker is killed by the kernel because its memory cgroup is full",
    expect=r"then WorkerDied: .*SIGKILL.*OOM killer ended it .*its limit is 900 MiB",
    deadline_s=30,
    wrapper=machine.cgroup("memory", "memory.limit_in_bytes", str(900 << 20)),
    needs=machine.no_memory_cgroup,
)
def out_of_memory(trial: Trial) -> str:
    def act(index: int) -> None:
        if index == 21:
            Path("/proc/self/oom_score_adj").write_text("1000")
            bytearray(1 << 30)[:: 1 << 12] = b"x" * (1 << 18)

    return trial.read(trial.loader(Stamped(act)))


@fault(
    96,
    "RLIMIT_AS leaves a worker 2 GiB of addresses, and a sample takes 8",
    expect="samples 0 to 19, then (RuntimeError|MemoryError)",
    deadline_s=20,
)
def address_space_is_limited(trial: Trial) -> str:
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), used + (2 << 30)))

    def make(index: int) -> torch.Tensor:
        return torch.ones(1 << 31 if index == 21 else 4) * index

    return trial.read(trial.loader(Made(make)))


def _descriptors_are(most: int) -> None:
    def run(trial: Trial) -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        dataset = Made(lambda index: [torch.full((4,), float(index))] * 20)

        def ids_of(batch: Any) -> list[int]:
            trial.kept.append(batch)
            return [int(tensors[0][0]) for tensors in batch]

        return trial.read(trial.loader(dataset, collate_fn=list), ids_of=ids_of)

    text = f"ulimit -n {most}; each batch has 80 tensors and is kept"
    add(Case((97,), f"descriptors_limited_to_{most}", text, run, f"^{ALL}$"))


_descriptors_are(64)
_descriptors_are(256)


@fault(
    98,
    "ulimit -n 24 and eight workers",
    expect="OSError: .*Too many open files",
    leaves="pipe",  # multiprocessing forgets the first of two pipes when the second is refused
)
def descriptors_too_few_for_workers(trial: Trial) -> str:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, limits[1]))
    try:
        return trial.read(trial.loader(num_workers=8))
    except OSError as error:
        return describe(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@fault(
    99,
    "a pids cgroup that allows four more processes and threads, eight workers",
    expect="BlockingIOError: .*Resource temporarily unavailable",
    leaves="pipe",  # multiprocessing forgets the pipes it had opened for this process
    wrapper=machine.cgroup("pids", "pids.max", "6"),
    needs=machine.no_pids_cgroup,
    deadline_s=15,
)
def processes_are_limited(trial: Trial) -> str:
    try:
        return trial.read(trial.loader(num_workers=8))
    except OSError as error:
        return describe(error)


@fault(
    100,
    "10,000 batches of 20 tensors are kept",
    expect=r"^10000 batches, all equal, \+0 descriptors$",
    deadline_s=60,
)
def batches_are_kept(trial: Trial) -> str:
    dataset = Made(lambda index: [torch.full((4,), float(index)) for _ in range(20)], 10_000)
    iterator = iter(trial.loader(dataset, batch_size=None))
    trial.kept.append(next(iterator))
    before = len(descriptors())
    trial.kept += iterator
    gained = len(descriptors()) - before
    same = all(t[0] == k for k, batch in enumerate(trial.kept) for t in batch)
    words = "all equal" if same else "CHANGED"
    return f"{len(trial.kept)} batches, {words}, +{max(gained, 0)} descriptors"


@fault(
    101,
    "a training loop slower than its workers: batches made ahead",
    expect="at most [4-8] batches ahead",
)
def slow_consumer(trial: Trial) -> str:
    made = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
    lock = torch.multiprocessing.get_context("fork").Lock()

    def act(index: int) -> None:
        with lock:
            made.add_(1)

    most = 0
    for number, _ in enumerate(trial.loader(Stamped(act))):
        time.sleep(0.03)
        most = max(most, int(made) // 4 - number - 1)
    return f"at most {most} batches ahead"


@fault(102, "one sample is slow: the order stays", expect=f"^{ALL}$")
def slow_sample(trial: Trial) -> str:
    return trial.read(trial.loader(Stamped(lambda k: time.sleep(0.5 if k == 0 else 0))))


@fault(103, "the clock jumps back by a day, timeout=5", expect=f"^{ALL}$")
def clock_jumps(trial: Trial) -> str:
    now, starts = time.time, []

    def jumping() -> float:
        starts.append(0)
        return now() - 86_400 * (len(starts) % 2)

    time.time = jumping
    return trial.read(trial.loader(timeout=5))


@fault(
    105,
    "a file is cut short while a worker has it mapped",
    expect="samples 0 to (7|11|15|19), then WorkerDied: .*SIGBUS",
)
def mapped_file_is_cut(trial: Trial) -> str:
    import mmap

    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 20)
        mapping = mmap.mmap(file.fileno(), 1 << 20)

        def act(index: int) -> None:
            if index == 21:
                os.ftruncate(file.fileno(), 0)
                bytes(mapping[:10])

        text = trial.read(trial.loader(Stamped(act)))
        mapping.close()
    return text


@fault(
    106,
    "a list of a million strings in the dataset: private memory a worker gains in an epoch",
    expect="under 10 MiB",
    deadline_s=60,
)
def copy_on_write_growth(trial: Trial) -> str:
    import fastload

    make = list if trial.is_torch else fastload.SharedList
    names = make([f"train/class_{k % 1000:04d}/image_{k:08d}.jpeg" for k in range(10**6)])

    def private() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    def collate(lengths: list[int]) -> tuple[int, int]:
        return os.getpid(), private()

    first: dict[int, int] = {}
    growth: dict[int, int] = {}
    dataset = Made(lambda k: len(names[k]), 10**6)
    loader = trial.loader(dataset, batch_size=5000, shuffle=True, collate_fn=collate)
    # Not the last ones: when a worker leaves, what it shared with another becomes that one's own.
    for pid, kib in itertools.islice(loader, 180):
        growth[pid] = kib - first.setdefault(pid, kib)
    most = max(growth.values()) // 1024
    return "under 10 MiB (SharedList)" if most < 10 else f"{most} MiB (list)"


@fault(
    106,
    "the training process aborts with core dumps on: size of the core",
    expect="the arena is not in it",
    deadline_s=30,
    is_about_the_end=True,
)
def core_dump(trial: Trial) -> str:
    folder = tempfile.mkdtemp()
    size_mib = 256
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
        iterator = iter(trial.loader(Stamped(size=size_mib << 16), num_workers=1))
        trial.kept += [next(iterator), next(iterator)]  # batches of 256 MiB
        ctypes.CDLL(None).abort()
    os.waitpid(child, 0)
    cores = list(Path(folder).glob("core*"))
    size = sum(core.stat().st_blocks * 512 for core in cores) >> 20
    for core in cores:
        core.unlink()
    Path(folder).rmdir()
    if not cores:
        return "no core was written; the arena is not in it"
    return "the arena is not in it" if size < size_mib else f"core of {size} MiB"
