"""What does an access to a SharedList or SharedDict cost, beside a list or dict?

    pytest benchmarks/test_shared_containers.py --benchmark-only

A hundred thousand entries, 2,000 of them read in a random order, one thread; equal content is
checked first. Caveats: a list costs nothing but a cache miss to read, and what a shared container
gives is a new object each time; so it always loses here. It wins in memory, which
tests/datasets/test_shared_containers.py measures: 1 MiB against 75 MiB of private memory a worker
after a shuffled epoch over a million strings.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from fastload import SharedDict, SharedList

LENGTH = 100_000
READS = 2_000

CONTENTS: dict[str, list[Any]] = {
    "int": list(range(LENGTH)),
    "float": [k / 3 for k in range(LENGTH)],
    "str": [f"train/class_{k % 1000:04d}/image_{k:08d}.jpeg" for k in range(LENGTH)],
    "bytes": [b"%032d" % k for k in range(LENGTH)],
    "tuple of str and int": [(f"image_{k:08d}.jpeg", k % 1000) for k in range(LENGTH)],
    "dict with a list": [{"id": k, "boxes": [k, k + 1.5], "name": "cat"} for k in range(LENGTH)],
}


@pytest.mark.parametrize("kind", [list, SharedList])
@pytest.mark.parametrize("content", sorted(CONTENTS))
def test_reading_a_list(benchmark: Any, content: str, kind: Any) -> None:
    """Time 2,000 look-ups by random index."""
    items = kind(CONTENTS[content])
    assert list(items) == CONTENTS[content]
    indices = random.Random(0).sample(range(LENGTH), READS)
    benchmark.group = f"list of {content}"
    benchmark.pedantic(lambda: [items[k] for k in indices], rounds=30, warmup_rounds=3)


@pytest.mark.parametrize("kind", [dict, SharedDict])
@pytest.mark.parametrize("content", ["int", "str"])
def test_reading_a_dict(benchmark: Any, content: str, kind: Any) -> None:
    """Time 2,000 look-ups by random key."""
    keys = CONTENTS[content]
    items = kind(dict(zip(keys, CONTENTS["int"], strict=True)))
    assert [items[key] for key in keys] == CONTENTS["int"]
    wanted = random.Random(0).sample(keys, READS)
    benchmark.group = f"dict from {content} to int"
    benchmark.pedantic(lambda: [items[key] for key in wanted], rounds=30, warmup_rounds=3)
