"""Open files: as few for each worker as torch has, and never under the standard numbers."""

import contextlib
import errno
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

import fastload
from fastload._system import descriptors
from tests.start_methods import METHODS

DEADLINE_S = 240


class Numbers(Dataset):
    """Numbers in tensors."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return torch.tensor(index)


class Low(Numbers):
    """What lies behind the three lowest numbers of the process that loads it."""

    def __getitem__(self, index):
        found = [Path(f"/proc/self/fd/{number}") for number in range(3)]
        return [str(each.readlink()) if each.is_symlink() else "closed" for each in found]


def count_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def descriptors_of(loader_class, workers, method):
    loader = loader_class(
        Numbers(),
        batch_size=2,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context=method,
    )
    before = count_descriptors()
    iterator = iter(loader)
    next(iterator)
    after = count_descriptors()
    iterator._shutdown_workers()
    return after - before


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_more_needs_no_more_descriptors_than_torchs(method):
    """Whatever the start method."""
    list(fastload.DataLoader(Numbers(), num_workers=1, multiprocessing_context=method))
    ours, torchs = (
        descriptors_of(loader, 4, method) - descriptors_of(loader, 1, method)
        for loader in (fastload.DataLoader, torch.utils.data.DataLoader)
    )
    assert ours <= torchs


@contextlib.contextmanager
def files_left(number):
    """Let this process open so many more files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(link.name) for link in Path("/proc/self/fd").iterdir())
    fillers = []
    while not fillers or fillers[-1] < highest:
        fillers.append(os.open(os.devnull, os.O_RDONLY))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + number, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for filler in fillers:
            os.close(filler)


@pytest.mark.parametrize(
    ("method", "left"),
    [
        *(("fork", 2), ("fork", 5), ("fork", 9), ("fork", 14), ("forkserver", 14)),
        pytest.param("spawn", 14, marks=pytest.mark.exhaustive),
    ],
)
def test_too_many_open_files_says_how_many_and_which_limit(method, left):
    """At whichever descriptor it happens; and nothing is left open."""
    loader = fastload.DataLoader(
        Numbers(), batch_size=2, num_workers=6, multiprocessing_context=method
    )
    list(loader)
    before = count_descriptors()
    with files_left(left):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with pytest.raises(OSError, match=r"6 workers need \d+, \d+ are open already") as caught:
            list(loader)
    assert caught.value.errno == errno.EMFILE
    assert f"{soft} (hard limit {hard})" in str(caught.value)
    assert "ulimit -n" in str(caught.value)
    del caught
    assert count_descriptors() == before


CLOSED = """
    import os, sys
    from pathlib import Path
    import torch
    from fastload import DataLoader
    from tests.system.test_descriptors import Low

    def below_three():
        return [n for n in range(3) if Path(f"/proc/self/fd/{n}").is_symlink()]

    if __name__ == "__main__":
        result = open(sys.argv[2], "w")
        for number in range(3):
            os.close(number)
        loader = DataLoader(
            Low(), batch_size=2, num_workers=2, collate_fn=list, persistent_workers=True,
            multiprocessing_context=sys.argv[1],
        )
        seen = {str(low) for epoch in range(2) for batch in loader for low in batch}
        print(below_three(), sorted(seen), file=result, flush=True)
        os._exit(0)
"""


@pytest.mark.parametrize("method", METHODS)
def test_none_of_ours_has_a_number_of_a_closed_standard_file(method, tmp_path):
    """A stray ``print`` of a daemon would go into a pipe of messages."""
    program, result = tmp_path / "program.py", tmp_path / "result"
    program.write_text(textwrap.dedent(CLOSED))
    subprocess.run(
        [sys.executable, "-W", "ignore", program, method, result],
        check=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    consumer, _, workers = result.read_text().partition("] ")
    assert consumer == "["
    for ours in ("pipe:", "memfd:", "eventpoll", "eventfd", "pidfd", "socket:"):
        assert ours not in workers


def test_descriptors_opened_while_standard_ones_are_closed_are_high():
    """And the numbers are free again behind the block."""
    saved = os.dup(0)
    os.close(0)
    try:
        with descriptors.standard_numbers_occupied():
            opened = os.open(os.devnull, os.O_RDONLY)
        os.close(opened)
        assert opened >= descriptors.FIRST_FREE
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        assert free == 0
    finally:
        os.dup2(saved, 0)
        os.close(saved)
