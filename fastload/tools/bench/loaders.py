"""Make the loader of a workload, from torch's class or ours or any class named.

Runs in: the measuring and verifying processes.
Takes: a workload and the name of a loader class.
Gives: the loader, made the same way for every class.
"""

import pkgutil
from typing import Any

from torch.utils.data import DataLoader

from fastload.tools.bench.names import split_name
from fastload.tools.bench.workload import Recipe, Workload

_KNOWN = {"torch": "torch.utils.data:DataLoader", "fastload": "fastload:DataLoader"}


def loader_class(name: str) -> type[DataLoader[Any]]:
    """Return the class called `torch`, `fastload` or `module:attribute`."""
    found: type[DataLoader[Any]] = pkgutil.resolve_name(_KNOWN.get(name, name))
    return found


def make_loader(workload: Workload, recipe: Recipe, name: str, *, workers: int) -> DataLoader[Any]:
    """Make the loader; what is not said here is left at the class's defaults.

    Args:
        workload: what to load.
        recipe: what the workload's `cook` returned.
        name: the loader class: `torch`, `fastload` or `module:attribute`, perhaps with a seed.
        workers: as asked for; some workloads keep to a number of their own.
    """
    workers = workload.workers_given(workers)
    class_name, seed = split_name(name)
    options = recipe.options if seed is None else {**recipe.options, "seed": seed}
    if workers == 0:  # nothing is loaded ahead
        options = {name: value for name, value in options.items() if name != "prefetch_factor"}
    return loader_class(class_name)(
        recipe.dataset,
        batch_size=workload.batch_size,
        num_workers=workers,
        persistent_workers=workload.persistent and workers > 0,
        **options,
    )
