"""What a workload is: a name, recipes for a dataset, and how much of it to load.

Most workloads have one recipe: both loaders get the same dataset and collate function, and what is
compared is the loader, as a change of the import gives it. Some have a second one, fastload's own
way to the same batches, which is compared with the usual way.
"""

import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fastload.tools.bench.names import split_name

_USUAL_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a loader is made of: a dataset and the loader's options besides size and workers.

    Attributes:
        dataset: map-style or iterable, a deterministic function of the index.
        options: keyword arguments for the loader, such as `shuffle` and `collate_fn`.
        as_usual: brings a batch to the form that the usual way has, where that differs by a name
            or a container. For the comparison of batches alone; never called while measuring.
        to_compare: the same samples without most of the waiting, for the comparison of batches;
            None: the dataset itself.
    """

    dataset: Any
    options: dict[str, Any] = field(default_factory=dict)
    as_usual: Callable[[Any], Any] | None = None
    to_compare: Any = None

    def for_comparison(self) -> "Recipe":
        """Return the recipe by which batches are compared."""
        return self if self.to_compare is None else replace(self, dataset=self.to_compare)


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of data that people load, in one fixed shape.

    Attributes:
        name: what `--workload` takes.
        description: one line for people.
        recipe: `module:function`; the function takes the number of samples and returns a `Recipe`.
            A name, so that listing the workloads imports no torch.
        own: a second recipe, for the loader called `fastload` alone: the same samples with
            fastload's own dataset, collate function or options. A class named by `--loader` gets
            the first.
        batch_size: samples per batch.
        samples: samples per epoch.
        quick_samples: samples per epoch with `--quick`.
        workers: 2 can be overridden; any other number is part of the workload's definition.
        persistent: whether workers outlive the epoch (`persistent_workers`).
        unit: what is counted: steady samples, or whole epochs with everything around them.
        needs: modules that are not among fastload's own dependencies.
    """

    name: str
    description: str
    recipe: str
    batch_size: int
    samples: int
    quick_samples: int
    workers: int = _USUAL_WORKERS
    persistent: bool = False
    unit: Literal["samples", "epochs"] = "samples"
    needs: tuple[str, ...] = ()
    own: str | None = None

    def recipe_for(self, loader: str) -> str:
        """Return the name of the recipe that a loader gets, by the loader's name."""
        has_own = self.own is not None and split_name(loader)[0] == "fastload"
        return self.own if self.own is not None and has_own else self.recipe

    def workers_given(self, requested: int) -> int:
        """Return the number of workers to use where the user asked for `requested`."""
        return requested if self.workers == _USUAL_WORKERS else self.workers

    def samples_given(self, *, quick: bool) -> int:
        """Return the samples per epoch in full or quick mode."""
        return self.quick_samples if quick else self.samples

    def missing(self) -> list[str]:
        """Return those of the needed modules that are not installed."""
        return [module for module in self.needs if importlib.util.find_spec(module) is None]

    def cook(self, samples: int, loader: str = "torch") -> Recipe:
        """Follow a loader's recipe: make a dataset of `samples` samples. Imports torch."""
        make: Callable[[int], Recipe] = pkgutil.resolve_name(self.recipe_for(loader))
        return make(samples)
