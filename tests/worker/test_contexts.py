"""Contexts of multiprocessing without processes, and what a worker can import."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess

import pytest
import torch
from torch.utils.data import Dataset, get_worker_info

import fastload
from fastload._system.descriptors import Descriptor
from fastload._worker.job import WorkerEnds, empty_spec
from fastload._worker.loop import work

DEADLINE_S = 240


class Numbers(Dataset):
    """The first eight numbers."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor(index)


class ThreadAsProcess(threading.Thread):
    """As some libraries bring one."""

    @property
    def pid(self):
        return id(self)


class Threads(SpawnContext):
    """A context whose processes are threads."""

    Process = ThreadAsProcess


class ThreadsOfAFactory(SpawnContext):
    """What makes them does not tell."""

    @staticmethod
    def Process(**options):
        return ThreadAsProcess(**options)


class InThisProcess(BaseProcess):
    """Derives from multiprocessing's own class and runs here all the same."""

    def start(self):
        thread = threading.Thread(target=self.run)
        thread.start()
        thread.join()

    pid = property(lambda self: os.getpid())


class InThisProcessContext(SpawnContext):
    """A context of such processes."""

    Process = InThisProcess


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("context", [Threads, ThreadsOfAFactory, InThisProcessContext])
def test_a_context_without_processes_is_refused_and_changes_nothing(context, keep):
    """The error says what to give instead; the training process stays as it was."""
    loader = fastload.DataLoader(
        Numbers(), num_workers=2, multiprocessing_context=context(), persistent_workers=keep
    )
    torch.manual_seed(1)
    frozen, threads = gc.get_freeze_count(), torch.get_num_threads()
    for _ in range(2):
        with pytest.raises(TypeError, match=r"multiprocessing_context=.*Give 'fork'"):
            list(loader)
    assert gc.get_freeze_count() <= frozen  # what was frozen before may be gone
    assert torch.get_num_threads() == threads
    assert get_worker_info() is None


def test_the_entry_of_a_worker_does_nothing_in_the_consumer():
    """A lifeline there would kill the training process."""
    read, write = os.pipe()
    ends = WorkerEnds(
        0, os.getpid(), None, Descriptor(read), Descriptor(write), Descriptor(read), None
    )
    before = gc.get_freeze_count()
    try:
        with pytest.raises(RuntimeError, match="in the training process itself"):
            work(ends, empty_spec())
    finally:
        os.close(read)
        os.close(write)
    assert gc.get_freeze_count() <= before  # what was frozen before may be gone


AT_A_PROMPT = """
    import sys
    from torch.utils.data import Dataset
    from fastload import DataLoader

    class Typed(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return index

    dataset = Typed()
    if sys.argv[2] == "lock":  # can be pickled only for a process that is being started
        import multiprocessing
        dataset.lock = multiprocessing.get_context(sys.argv[1]).Lock()
    list(DataLoader(dataset, num_workers=1, multiprocessing_context=sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("method", "what"),
    [
        *(("spawn", "lock"), ("forkserver", "plain")),
        pytest.param("spawn", "plain", marks=pytest.mark.exhaustive),
    ],
)
def test_what_was_defined_at_a_prompt_gets_a_hint(method, what):
    """In a notebook or with ``python -c`` no worker of spawn can import it."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(AT_A_PROMPT), method, what],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ended.returncode == 1
    assert "Can't get attribute 'Typed'" in ended.stderr
    assert "in a module (a .py file)" in ended.stderr
    assert "multiprocessing_context='fork'" in ended.stderr
