"""What travels: whatever a sample or a batch may hold arrives as without workers.

One loader carries all samples of a group, one batch each; failures list the samples' names.
"""

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from . import cases_arrays, cases_objects, cases_tensors
from .datasets import Made, keep
from .same import assert_same
from .ways import AS_RETURNED, every_way, one_epoch, with_workers

HANG_S = 240
MOST_SHOWN = 15

# Torch says once a process which of its kinds are new, old or unfinished.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

GROUPS = {
    "tensor-dtypes": cases_tensors.DTYPES,
    "odd-dtypes": cases_tensors.ODD_DTYPES,
    "tensor-shapes": cases_tensors.SHAPES,
    "tensor-kinds": cases_tensors.KINDS,
    "array-numbers": cases_arrays.NUMBERS,
    "arrays": cases_arrays.ARRAYS,
    "plain-objects": cases_objects.PLAIN,
    "containers": cases_objects.CONTAINERS,
}

# How a loader is told to collate: torch's default, not at all, or a sample at a time.
COLLATIONS = {
    "default": {"batch_size": 2},
    "kept": {"batch_size": 2, "collate_fn": keep},
    "single": {"batch_size": None},
}


@dataclass
class Raised:
    """An exception in place of a batch."""

    type: type
    text: str


def _loaded(loader: Any, names: list[str]) -> dict[str, Any]:
    """What came for each name: a batch or what was raised instead."""
    iterator = iter(loader)
    results = {}
    for name in names:
        try:
            results[name] = next(iterator)
        except Exception as error:
            results[name] = Raised(type(error), str(error))
    assert next(iterator, None) is None  # Torch takes seconds to close what is not at its end.
    return results


def _load(make: Any, samples: dict[str, Any], collation: str, **options: Any) -> dict[str, Any]:
    makers = list(samples.values())
    dataset = Made(2 * len(samples), lambda index: makers[index // 2]())
    options |= COLLATIONS[collation]
    if collation == "single":
        options["sampler"] = range(0, 2 * len(samples), 2)
    return _loaded(make(dataset, **options), list(samples))


def _difference(got: Any, expected: Any) -> str | None:
    if isinstance(expected, Raised):
        if not isinstance(got, Raised):
            return f"came, instead of {expected.type.__name__}: {expected.text}"
        if got.type is not expected.type or expected.text not in got.text:
            return f"raised {got}, instead of {expected}"
        return None
    if isinstance(got, Raised):
        return f"raised {got.type.__name__}: {got.text[-300:]}"
    try:
        assert_same(got, expected)
    except Exception as difference:
        return str(difference)[:400]
    return None


# A graph of gradients ends at the border of a process: workers refuse what they would cut off.
NEEDS_A_GRAPH = {
    "default": {
        "parameter",
        "leaf that requires a gradient",
        "result that requires a gradient",
    },
    "kept": {"result that requires a gradient"},
    "single": {"result that requires a gradient"},
}

# What torch's workers refuse, spoil or never send: hangs, wrong values and lost types.
_SPOILT = {
    "quantized per tensor",
    "quantized per channel",
    "conjugate view",
    "negative view",
    "result that requires a gradient",
    "big-endian",
    "big-endian float",
}
TORCH_FAILS = {
    "default": {*_SPOILT, *cases_tensors.ODD_DTYPES, "large list"},
    "kept": _SPOILT,
    "single": _SPOILT,
}


@one_epoch
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("collation", COLLATIONS)
def test_everything_arrives_as_without_workers(way, make_loader, group, collation):
    """Each kind of sample arrives, or is refused, exactly as by torch without workers."""
    left_out = set()
    if way.has_workers:
        left_out |= NEEDS_A_GRAPH[collation]
    if way.has_workers and way.is_torch:
        left_out |= TORCH_FAILS[collation]
    samples = {name: make for name, make in GROUPS[group].items() if name not in left_out}
    options = {"timeout": HANG_S} if way.has_workers else {}
    expected = _load(DataLoader, samples, collation)
    got = _load(make_loader, samples, collation, **options)
    differences = {name: _difference(got[name], expected[name]) for name in samples}
    wrong = [f"{name}: {text}" for name, text in differences.items() if text]
    assert not wrong, f"{len(wrong)} of {len(samples)} differ:\n" + "\n".join(wrong[:MOST_SHOWN])


class _Everything(Dataset):
    """The samples of all groups; each is made in the process that loads it."""

    def __init__(self, names: list[tuple[str, str]]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        group, name = self.names[index]
        return GROUPS[group][name]()


@every_way
@with_workers
def test_every_start_method_carries_everything(way, make_loader):
    """What a sample is made of does not depend on how its worker was started."""
    left_out = NEEDS_A_GRAPH["single"] | (TORCH_FAILS["single"] if way.is_torch else set())
    names = [
        (group, name) for group, samples in GROUPS.items() for name in samples.keys() - left_out
    ]
    options = {"batch_size": None}
    got = _loaded(make_loader(_Everything(names), timeout=HANG_S, **options), names)
    expected = _loaded(DataLoader(_Everything(names), **options), names)
    wrong = {name: text for name in names if (text := _difference(got[name], expected[name]))}
    assert not wrong


@one_epoch
@with_workers
@pytest.mark.parametrize("collation", COLLATIONS)
@AS_RETURNED
def test_gradients_that_cannot_leave_a_worker_are_refused(way, make_loader, collation):
    """A graph of gradients that a worker built is refused, saying so, and loading goes on."""
    if way.is_torch and collation != "default":
        pytest.skip("better than torch: a batch that cannot be sent hangs")
    samples = {name: cases_tensors.KINDS[name] for name in sorted(NEEDS_A_GRAPH[collation])}
    samples["next"] = lambda: torch.ones(2)
    loaded = _load(make_loader, samples, collation, timeout=HANG_S)
    assert isinstance(loaded.pop("next"), torch.Tensor | list)
    for name, raised in loaded.items():
        assert isinstance(raised, Raised), name
        assert raised.type is RuntimeError, raised
        assert re.search("requires?[_ ]grad", raised.text), raised
