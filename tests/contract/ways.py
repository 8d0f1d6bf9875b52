"""The ways of loading that the contract is held against, and the marks that choose among them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch.utils.data

import fastload

WORKERS = 2

every_way = pytest.mark.every_way
"""Also with forkserver and spawn, whose start takes long."""

one_epoch = pytest.mark.one_epoch
"""Of one epoch, in which workers that are kept do what others do."""

with_workers = pytest.mark.with_workers
"""Only where there are worker processes."""


def better_than_torch(reason: str, *, inline_too: bool = False) -> pytest.MarkDecorator:
    """Skip torch with workers (and without, if so told), and list the reason in the summary."""
    return pytest.mark.better_than_torch(reason, inline_too=inline_too)


def not_of_threads(reason: str) -> pytest.MarkDecorator:
    """Skip threads as workers, which do not promise this, and list the reason in the summary."""
    return pytest.mark.not_of_threads(reason)


SHARED = not_of_threads("threads share the dataset, the collate function and what these refer to")
GLOBAL_DRAWS = not_of_threads("threads share the program's random generators")
NO_PROCESS = not_of_threads("there is no process that could end")
AS_RETURNED = not_of_threads("batches arrive as the collate function returned them")


@dataclass(frozen=True)
class Way:
    """One class of loader with the options that make it go this way."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def is_torch(self) -> bool:
        return self.name.startswith("torch")

    @property
    def has_workers(self) -> bool:
        return "num_workers" in self.options

    @property
    def is_slow_to_start(self) -> bool:
        return self.options.get("multiprocessing_context") in ("forkserver", "spawn")

    @property
    def has_threads(self) -> bool:
        return self.options.get("worker_method") == "thread"

    @property
    def is_spawned(self) -> bool:
        return self.options.get("multiprocessing_context") == "spawn"

    @property
    def is_persistent(self) -> bool:
        return bool(self.options.get("persistent_workers", False))

    @property
    def loader_class(self) -> type[torch.utils.data.DataLoader[Any]]:
        return torch.utils.data.DataLoader if self.is_torch else fastload.DataLoader

    def loader(self, dataset: Any, **options: Any) -> torch.utils.data.DataLoader[Any]:
        return self.loader_class(dataset, **{**self.options, **options})

    def reference(self, dataset: Any, **options: Any) -> torch.utils.data.DataLoader[Any]:
        """Torch's loader with as many workers, living as long."""
        worker_options = {}
        if self.has_workers:
            worker_options = {
                "num_workers": self.options["num_workers"],
                "multiprocessing_context": "fork",
                "persistent_workers": self.is_persistent,
            }
        return torch.utils.data.DataLoader(dataset, **{**worker_options, **options})


_FORK = {"num_workers": WORKERS, "multiprocessing_context": "fork"}

_THREADS = {"num_workers": WORKERS, "worker_method": "thread"}

WAYS = [
    Way("torch", _FORK),
    Way("torch-inline"),
    Way("fastload-inline"),
    Way("fastload-fork", _FORK),
    Way("fastload-fork-persistent", {**_FORK, "persistent_workers": True}),
    Way("fastload-forkserver", {"num_workers": 1, "multiprocessing_context": "forkserver"}),
    Way(
        "fastload-spawn",
        {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True},
    ),
    Way("fastload-threads", _THREADS),
    Way("fastload-threads-persistent", {**_THREADS, "persistent_workers": True}),
]


def chosen(marked: pytest.Item) -> Iterator[Any]:
    """Parameters for the ways that a test's marks leave, torch's known faults as skips.

    That torch's own loader keeps the contract is shown by the exhaustive run only, and so is what
    holds for spawned workers as for those of the fork server (see ``tests/start_methods.py``).
    """
    fault = marked.get_closest_marker("better_than_torch")
    difference = marked.get_closest_marker("not_of_threads")
    for way in WAYS:
        if way.is_slow_to_start and not marked.get_closest_marker("every_way"):
            continue
        if not way.has_workers and marked.get_closest_marker("with_workers"):
            continue
        is_as_others = way.is_persistent and marked.get_closest_marker("one_epoch")
        is_rare = way.is_torch or way.is_spawned or is_as_others
        marks = [pytest.mark.exhaustive] if is_rare else []
        if fault and way.is_torch and (way.has_workers or fault.kwargs["inline_too"]):
            marks.append(pytest.mark.skip(reason=f"better than torch: {fault.args[0]}"))
        if difference and way.has_threads:
            marks.append(pytest.mark.skip(reason=f"threads: {difference.args[0]}"))
        yield pytest.param(way, marks=marks, id=way.name)


def close(loader: torch.utils.data.DataLoader[Any]) -> None:
    """End the loader's workers, also torch's persistent ones."""
    if hasattr(loader, "close"):
        loader.close()
    elif loader._iterator is not None and hasattr(loader._iterator, "_shutdown_workers"):
        loader._iterator._shutdown_workers()
        loader._iterator = None


@contextmanager
def closing(loader: torch.utils.data.DataLoader[Any]) -> Iterator[torch.utils.data.DataLoader[Any]]:
    """The loader, closed at the end of the block."""
    try:
        yield loader
    finally:
        close(loader)
