"""Make one fault in this fresh process, and print what came of it.

    python -m tests.faults.trial fastload worker_is_killed

Prints "ready" once everything is imported, then one line of JSON: the outcome and what was left.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.utils.data
from torch.utils.data import Dataset

import fastload
from tests.faults.case import ALL, CASES, patient

LENGTH = 64
LEFT_AFTER_S = 3.0


class EndsTheProgram(Exception):
    """Raised by a case that wants to leave by an exception that nothing catches."""


class Stamped(Dataset[Any]):
    """Samples that are their index, many times; before each, something may happen."""

    def __init__(
        self, act: Callable[[int], Any] | None = None, size: int = 4, length: int = LENGTH
    ) -> None:
        self.act, self.size, self.length = act, size, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.act is not None:
            self.act(index)
        return torch.full((self.size,), float(index))


class Made(Dataset[Any]):
    """Samples that a function makes of their index."""

    def __init__(self, make: Callable[[int], Any], length: int = LENGTH) -> None:
        self.make, self.length = make, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Trial:
    """What a fault is made with: one of the two loaders, and words for what it delivers."""

    def __init__(self, loader: str) -> None:
        self.is_torch = loader == "torch"
        self._loader_class: Any = (
            torch.utils.data.DataLoader if self.is_torch else fastload.DataLoader
        )
        self.ids: list[int] = []
        self.kept: list[Any] = []

    def loader(self, dataset: Any = None, **options: Any) -> Any:
        """A loader of 64 stamped samples, or of ``dataset``, with two forked workers."""
        options = {
            "batch_size": 4,
            "num_workers": 2,
            "multiprocessing_context": "fork" if options.get("num_workers", 2) else None,
            **options,
        }
        return self._loader_class(Stamped() if dataset is None else dataset, **options)

    def read(
        self, batches: Iterable[Any], *, ids_of: Callable[[Any], list[int]] | None = None
    ) -> str:
        """Read to the end or to the first exception; says what came, and how it ended."""
        self.ids = ids = []
        ids_of = ids_of or stamps
        try:
            for batch in batches:
                ids += ids_of(batch)
        except BaseException as error:  # also what a loader should not raise
            return f"{self.seen()}, then {describe(error)}"
        return self.seen()

    def seen(self) -> str:
        """The samples read by ``read``, in words."""
        ids = self.ids
        if ids == list(range(LENGTH)):
            return ALL
        if ids == list(range(len(ids))):
            return f"samples 0 to {len(ids) - 1}" if ids else "nothing"
        twice, lost = len(ids) - len(set(ids)), LENGTH - len(set(ids))
        return f"{len(ids)} samples ({twice} twice, {lost} of {LENGTH} missing): {ids}"


def stamps(batch: Any) -> list[int]:
    """The indices of a batch of stamped samples; fails if one is not whole."""
    rows = list(batch)
    for row in rows:
        assert bool((row == row[0]).all()), f"a sample is torn: {row.unique().tolist()}"
    return [int(row[0]) for row in rows]


def describe(error: BaseException) -> str:
    """Type, text, notes and causes of an exception, in lines."""
    lines = [f"{type(error).__name__}: {_text_of(error)}", *getattr(error, "__notes__", [])]
    cause = error.__cause__
    if cause is not None:
        lines.append(f"from {type(cause).__name__}: {_text_of(cause)}")
    return "\n".join(lines)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failed:
        return f"(its text fails: {failed!r})"


def children() -> list[psutil.Process]:
    """WeakSet descendants, without the two servers that multiprocessing keeps."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
            if child.status() != "zombie" and not any(
                server in command for server in ("resource_tracker", "forkserver")
            ):
                found.append(child)
        except psutil.Error:
            continue
    return found


def descriptors() -> set[str]:
    """What is open, as 'number target', but for the ends of multiprocessing's servers."""
    from multiprocessing import forkserver, resource_tracker

    servers = {forkserver._forkserver._forkserver_alive_fd, resource_tracker._resource_tracker._fd}  # type: ignore[attr-defined]
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            if int(link.name) not in servers:
                found.add(f"{link.name} {link.readlink()}")
        except OSError:
            continue
    return found


def what_is_left(before: set[str]) -> list[str]:
    """Children and descriptors that are there after a while and were not before."""
    deadline = time.monotonic() + patient(LEFT_AFTER_S)
    while True:
        gc.collect()
        left = [f"process {child.pid}" for child in children()]
        left += [f"descriptor {which}" for which in sorted(descriptors() - before)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def say(**content: Any) -> None:
    """Print one line of JSON."""
    os.write(1, (json.dumps(content) + "\n").encode())


def run(loader: str, name: str) -> None:
    """Run one case and print its outcome."""
    case = CASES[name]
    trial = Trial(loader)
    before = descriptors()
    os.write(1, b"ready\n")
    started = time.monotonic()
    try:
        outcome = case.run(trial)
    except EndsTheProgram as error:
        say(outcome=describe(error), elapsed_s=0.0, left=[])
        raise
    except BaseException as error:
        outcome = describe(error)
    elapsed_s = time.monotonic() - started
    if case.is_about_the_end:
        say(outcome=outcome, elapsed_s=elapsed_s, left=[])
    else:
        trial.kept.clear()
        say(outcome=outcome, elapsed_s=elapsed_s, left=what_is_left(before))


if __name__ == "__main__":
    # Under its own name, so that what spawned workers unpickle is the same class.
    import tests.faults.cases  # noqa: F401  (fills the table)
    from tests.faults import trial as itself

    itself.run(*sys.argv[1:])
