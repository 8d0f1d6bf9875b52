"""How fast are datasets of Hugging Face read? Writes a table of docs/benchmarks.md.

    python benchmarks/hugging_face.py            # measure, then write: six minutes
    python benchmarks/hugging_face.py --only ids # these rows again, the others stay
    python benchmarks/hugging_face.py --page     # the table again, from the last results

Each dataset is saved by `save_to_disk` and read back memory-mapped, as is usual. Both loaders get
the same dataset, in turn, round after round, each in a fresh process, for about a second. Checked
first, for each row: the first batches of an epoch are torch's.

Caveat: rates are of steady state, from the first batch on. With torch's loader a row is slow enough
for the start of workers not to matter; with ours it would be most of the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.publish import BENCHMARKS, put  # noqa: E402
from fastload.tools.bench.child import Child, await_turn  # noqa: E402
from fastload.tools.bench.equality import difference  # noqa: E402
from fastload.tools.bench.loaders import loader_class  # noqa: E402
from fastload.tools.bench.machine import describe_machine  # noqa: E402

RESULTS = ROOT / "benchmarks" / "hugging_face.json"
MARKS = "<!-- hugging face -->", "<!-- end of hugging face -->"
LOADERS = ("torch", "fastload")
ROUNDS = 2
LIMIT_S = 60.0
SECONDS = 1.0
COMPARED_BATCHES = 4
BATCH = 256

Figures = dict[str, dict[str, list[float]]]
"""Of each row and loader, samples a second in each round."""


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        text: What is loaded.
        data: Makes the columns.
        style: The format.
        workers: How many.
        is_stream: Whether it is an ``IterableDataset``.
        goal: The ratio that was asked for.
    """

    text: str
    data: str
    style: str | None
    workers: int
    is_stream: bool
    goal: float


def numbers() -> dict[str, Any]:
    """Eight columns of numbers."""
    draws = np.random.default_rng(0)
    columns: dict[str, Any] = {f"f{n}": draws.random(100_000, np.float32) for n in range(6)}
    return columns | {"id": np.arange(100_000), "label": (np.arange(100_000) % 10).astype("int32")}


def token_ids() -> dict[str, Any]:
    """Lists of 128 token ids, and a label."""
    ids = np.random.default_rng(0).integers(0, 30_000, (20_000, 128), dtype=np.int32)
    return {"input_ids": list(ids), "label": np.arange(len(ids)) % 10}


DATA: dict[str, Callable[[], dict[str, Any]]] = {"numbers": numbers, "ids": token_ids}
TEXTS = {
    "numbers": "8 columns of numbers, shuffled",
    "ids": "128 token ids and a label, shuffled",
}


def _rows() -> Iterator[tuple[str, Row]]:
    for data, style, workers in itertools.product(DATA, ("torch", "numpy", None), (0, 2)):
        goal = 8.0 if data == "numbers" and style == "torch" else 1.0
        yield (
            f"{data}-{style}-{workers}",
            Row(TEXTS[data], data, style, workers, is_stream=False, goal=goal),
        )
    for style in ("torch", None):
        text = "8 columns of numbers, an `IterableDataset` of 4 shards"
        yield f"stream-{style}-2", Row(text, "numbers", style, 2, is_stream=True, goal=1.0)


ROWS = dict(_rows())


class RowError(Exception):
    """A row could not be measured, or batches differ."""


def make_loader(row: Row, loader: str, folder: Path) -> Any:
    """The loader of a row, over its files."""
    dataset = datasets.load_from_disk(str(folder / row.data))
    torch.manual_seed(0)
    if row.is_stream:
        dataset = dataset.to_iterable_dataset(num_shards=4)
    dataset = dataset.with_format(row.style)
    shuffle = None if row.is_stream else True
    make = loader_class(loader)
    return make(dataset, batch_size=BATCH, shuffle=shuffle, num_workers=row.workers)


def rate(loader: Any) -> float:
    """Samples a second from the first batch on, over whole epochs or until the time is over."""
    taken, elapsed_s = 0, 0.0
    while elapsed_s < SECONDS:
        iterator = iter(loader)
        next(iterator)
        began = time.perf_counter()
        for batch in iterator:
            taken += len(batch["label"])
            if elapsed_s + time.perf_counter() - began > SECONDS:
                break
        elapsed_s += time.perf_counter() - began
    return taken / elapsed_s


def check(row: Row, folder: Path) -> None:
    """Hold the first batches of both loaders against each other.

    Raises:
        RowError: They differ; the message says where.
    """
    found = [
        list(itertools.islice(make_loader(row, each, folder), COMPARED_BATCHES)) for each in LOADERS
    ]
    for number, (right, other) in enumerate(zip(*found, strict=True)):
        words = difference(right, other, f"batch {number}")
        if words is not None:
            raise RowError(f"not torch's batches: {words}")


def measure(name: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """The rates of both loaders, in turn, each time in a fresh process."""
    _run("--check", name, str(folder))
    found: dict[str, list[float]] = {each: [] for each in LOADERS}
    for _ in range(rounds):
        for each in LOADERS:
            found[each].append(float(_run("--one", name, str(folder), each)))
    return found


def _run(*arguments: str) -> str:
    with Child([sys.executable, __file__, *arguments]) as child:
        child.await_ready(LIMIT_S)
        finished = child.finish(LIMIT_S)
    if finished.overran or finished.returncode:
        raise RowError(f"{' '.join(arguments)}: {finished.stderr or 'took too long'}")
    return finished.stdout


def make_table(document: dict[str, Any]) -> str:
    """The table of the page."""
    machine = document["machine"]
    lines = [
        (
            f"Python {machine['python']}, torch {machine['torch']}, datasets "
            f"{document['datasets']}, {machine['cores']} cores ({machine['processor']}), batches "
            f"of {BATCH} from mapped files, medians of interleaved runs in fresh processes, equal "
            f"batches checked first."
        ),
        "",
        "| dataset | format | workers | torch, samples/s | fastload, samples/s | ratio | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        if name not in document["rows"]:
            continue
        theirs, ours = (statistics.median(document["rows"][name][each]) for each in LOADERS)
        missed = "" if ours >= row.goal * theirs else " (missed)"
        lines.append(
            f"| {row.text} | `{row.style}` | {row.workers} | {theirs:,.0f} | {ours:,.0f} "
            f"| **{ours / theirs:.2f}** | at least {row.goal:g}{missed} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, unless the page alone is asked for; write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page only")
    parser.add_argument("--only", help="measure the rows whose name has this in it")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--check", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check or args.one:
        await_turn()
        name, folder, *loader = args.check or args.one
        if args.check:
            check(ROWS[name], Path(folder))
        else:
            print(rate(make_loader(ROWS[name], loader[0], Path(folder))))
        return
    document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    if not args.page:
        document |= {"machine": asdict(describe_machine()), "datasets": datasets.__version__}
        _measure_all(document, args.only or "", args.rounds)
    put(BENCHMARKS, make_table(document), *MARKS)


def _measure_all(document: dict[str, Any], part: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, make in DATA.items():
            datasets.Dataset.from_dict(make()).save_to_disk(str(Path(folder) / name))
        for name in ROWS:
            if part in name:
                document["rows"][name] = measure(name, Path(folder), rounds)
                RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
