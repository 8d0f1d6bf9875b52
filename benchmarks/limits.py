"""How far is fastload from what the machine allows? Writes a table of docs/benchmarks.md.

    python benchmarks/limits.py              # measure, then write the table: about three minutes
    python benchmarks/limits.py --page       # the table again, from the last results

Each question stands beside the least that Python and the hardware need for it: copying the bytes
of a batch once, making its samples and stacking them. Each answer is the median of runs in fresh
processes, all questions in turn. What is compared with a limit is measured in the same process,
just before or after it.

Caveats: ``memcpy`` is NumPy's copy of a batch between two buffers that are in use already, by one
core while the other is idle; the loader's workers and its consumer share both cores. Nothing is
done with a batch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import fastload  # noqa: E402
from benchmarks.publish import BENCHMARKS, put  # noqa: E402
from fastload.tools.bench.catalogue import find  # noqa: E402

RESULTS = ROOT / "benchmarks" / "limits.json"
MARKS = "<!-- limits -->", "<!-- end of limits -->"
ROUNDS = 5
BATCHES = 300


class Ready(Dataset[Any]):
    """Samples that are made already, one of a few again and again."""

    def __init__(self, samples: list[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> Any:
        return self._samples[index % len(self._samples)]


class Cost(NamedTuple):
    """Of one batch, in seconds."""

    wall_s: float
    consumer_cpu_s: float
    worker_cpu_s: float


def cost_of(loader: Any, batches: int = BATCHES) -> Cost:
    """Of a batch, after as many as it takes for all slots to be in use."""
    iterator = iter(loader)
    for _ in range(60):
        next(iterator)
    workers = [psutil.Process(worker.pid) for worker in iterator._workers]
    before_s, wall_s, cpu_s = _cpu_s(workers), time.perf_counter(), time.thread_time()
    for _ in range(batches):
        next(iterator)
    cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
    workers_s = _cpu_s(workers) - before_s
    iterator._shutdown_workers()
    return Cost(wall_s / batches, cpu_s / batches, workers_s / batches)


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def best_s(call: Callable[[], Any], calls: int) -> float:
    """The mean of so many calls, in the best of five loops."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (time.perf_counter() - started) / calls)
    return best


def _large(sample: Tensor, workers: int) -> dict[str, float]:
    source, target = (np.ones(64 * sample.nbytes, np.uint8) for _ in range(2))
    copy_s = best_s(lambda: np.copyto(target, source), 5)
    loader = fastload.DataLoader(Ready([sample] * 8), batch_size=64, num_workers=workers)
    return {"limit": len(source) / copy_s, "ours": len(source) / cost_of(loader, 150).wall_s}


def _small(workload: str) -> dict[str, float]:
    """CPU time of the worker for a batch of 256, against the same by hand."""
    torch.set_num_threads(1)
    dataset = find(workload).cook(256 * 5_200).dataset
    batches = iter(BatchSampler(itertools.cycle(range(len(dataset))), 256, drop_last=True))

    def by_hand() -> list[Tensor]:
        indices = next(batches)
        rows, labels = zip(*[dataset[index] for index in indices], strict=True)
        if isinstance(rows[0], Tensor):
            return [torch.stack(rows), torch.tensor(labels)]
        return [torch.from_numpy(np.stack(rows)), torch.tensor(labels)]

    by_hand_s = best_s(by_hand, 200)
    loader = fastload.DataLoader(dataset, batch_size=256, num_workers=1)
    return {"limit": by_hand_s, "ours": cost_of(loader, 5_000).worker_cpu_s}


def _in_memory() -> dict[str, float]:
    """A shuffled batch of 256 rows without workers, against indexing the tensors by hand."""
    dataset = find("table-inline").cook(100_000).dataset
    order = iter(torch.randperm(100_000 // 256 * 256).repeat(50).view(-1, 256))

    def by_hand() -> list[Tensor]:
        indices = next(order)
        return [tensor[indices] for tensor in dataset.tensors]

    by_hand_s = best_s(by_hand, 2_000)
    batches = itertools.chain.from_iterable(
        iter(lambda: fastload.DataLoader(dataset, batch_size=256, shuffle=True), None)
    )
    return {"limit": by_hand_s, "ours": best_s(lambda: next(batches), 2_000)}


def _handover(tensors: int) -> dict[str, float]:
    batch = [torch.full((4,), float(number)) for number in range(tensors)]
    loader = fastload.DataLoader(Ready([batch]), batch_size=None, num_workers=1)
    cost = cost_of(loader, 3_000)
    return {"ours": cost.wall_s, "consumer": cost.consumer_cpu_s, "worker": cost.worker_cpu_s}


def _turn() -> dict[str, float]:
    """From the end of an epoch to the first batch of the next one, workers kept."""
    dataset = torch.utils.data.Subset(Ready([torch.zeros(4)]), range(64))
    loader = fastload.DataLoader(
        dataset, batch_size=8, num_workers=2, persistent_workers=True, collate_fn=list
    )
    turns = []
    for _ in range(200):
        started = time.perf_counter()
        iterator = iter(loader)
        next(iterator)
        turns.append(time.perf_counter() - started)
        for _batch in iterator:
            pass
    return {"ours": statistics.median(turns)}


def _two_tensors() -> dict[str, float]:
    dataset = Ready([(torch.zeros(3, 32, 32), 1)])
    return {
        "ours": cost_of(fastload.DataLoader(dataset, batch_size=64, num_workers=2)).consumer_cpu_s
    }


UINT8, FLOAT32 = torch.ones(3, 224, 224, dtype=torch.uint8), torch.ones(3, 224, 224)


class Question(NamedTuple):
    """What is asked, how it is measured, and how the answer is told."""

    text: str
    goal: str
    measure: Callable[[], dict[str, float]]
    tell: Callable[[dict[str, float]], str]


def _share(answer: dict[str, float]) -> str:
    ours, limit = answer["ours"] / 2**30, answer["limit"] / 2**30
    return f"{ours / limit:.0%}: {ours:.1f} of {limit:.1f} GiB/s"


def _times(answer: dict[str, float]) -> str:
    ours, limit = answer["ours"] * 1e6, answer["limit"] * 1e6
    return f"{ours / limit:.2f} times: {ours:.0f} instead of {limit:.0f} µs"


def _on_top(answer: dict[str, float]) -> str:
    ours, limit = answer["ours"] * 1e6, answer["limit"] * 1e6
    return f"{ours / limit - 1:+.0%}: {ours:.0f} instead of {limit:.0f} µs"


def _microseconds(answer: dict[str, float]) -> str:
    shares = [
        f"{name} {answer[name] * 1e6:.0f}" for name in ("consumer", "worker") if name in answer
    ]
    return f"{answer['ours'] * 1e6:.0f} µs" + (f" (CPU: {', '.join(shares)})" if shares else "")


QUESTIONS = {
    **{
        f"large-{size}-{workers}": Question(
            f"samples of {text}, {workers} worker{'s' * (workers > 1)}: bytes delivered, of memcpy",
            f"at least {goal}",
            lambda sample=sample, workers=workers: _large(sample, workers),  # type: ignore[misc]
            _share,
        )
        for size, text, sample in (("uint8", "147 KiB", UINT8), ("float32", "588 KiB", FLOAT32))
        for workers, goal in ((1, "50 %"), (2, "60 %"))
    },
    **{
        f"small-{name}": Question(
            f"256 tiny samples, {text}: the worker's CPU time, of making and stacking them by hand",
            "at most +20 %",
            lambda name=name: _small(f"tiny-{name}"),  # type: ignore[misc]
            _on_top,
        )
        for name, text in (("tensor", "a tensor and a number"), ("numpy", "an array and a number"))
    },
    "in-memory": Question(
        "256 shuffled rows of a TensorDataset, no workers: of indexing its tensors by hand",
        "at most 3 times",
        _in_memory,
        _times,
    ),
    **{
        f"handover-{tensors}": Question(
            f"a ready batch of {tensors} small tensor{'s' * (tensors > 1)}, one worker",
            f"at most {goal} µs",
            lambda tensors=tensors: _handover(tensors),  # type: ignore[misc]
            _microseconds,
        )
        for tensors, goal in ((1, "100"), (20, "300"), (128, "1,500"))
    },
    "two-tensors": Question(
        "the training loop's own CPU time for a batch of two tensors, two workers",
        "at most 75 µs",
        _two_tensors,
        _microseconds,
    ),
    "turn": Question(
        "from the end of an epoch to the first batch of the next, workers kept",
        "at most 2,000 µs",
        _turn,
        _microseconds,
    ),
}


def main() -> None:
    """Ask each question in fresh processes; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the table only")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--one", choices=QUESTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(QUESTIONS[options.one].measure()))
        return
    if not options.page:
        RESULTS.write_text(json.dumps(_ask(options.rounds), indent=2) + "\n")
    put(BENCHMARKS, "\n".join(_table(json.loads(RESULTS.read_text()))), *MARKS)


def _ask(rounds: int) -> dict[str, dict[str, float]]:
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in QUESTIONS}
    for _ in range(rounds):
        for name, found in answers.items():
            command = [sys.executable, __file__, "--one", name]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=120, cwd=ROOT
            )
            found.append(json.loads(done.stdout))
    return {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for name, found in answers.items()
    }


def _table(answers: dict[str, dict[str, float]]) -> Iterator[str]:
    yield "| question | goal | measured |"
    yield "|---|---|---|"
    for name, question in QUESTIONS.items():
        yield f"| {question.text} | {question.goal} | {question.tell(answers[name])} |"


if __name__ == "__main__":
    main()
