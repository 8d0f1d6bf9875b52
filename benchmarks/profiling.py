"""How far can the profiler be believed? Writes the tables of docs/profiling.md.

    python benchmarks/profiling.py                      # everything: about ten minutes
    python benchmarks/profiling.py --only settings      # one table: four minutes, a quiet machine
    python benchmarks/profiling.py --page               # the page again, from the last results

Each of the six loads in ``CASES`` of ``tests/tools/profile/loads.py`` is profiled with either
loader: is the verdict right, how far is the predicted throughput of the recommended setting from
the measured? The six in ``REALISTIC`` tell how far the prediction of *any* setting is off that the
profile then runs for real, and how long a budget of 20 s takes; each is profiled in a process group
of its own, which is killed when it takes more than three times that.
Then the reference training is profiled, run as it is, and run with what was recommended.
``num_workers="auto"`` is set against no workers and against the best of a grid, over three epochs
with workers that stay; its first epoch, in which it tries settings, is included.

Caveat: on a machine that others use, predictions and measurements see different machines. The load
before each profile is in the results.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

RESULTS, PAGE = ROOT / "benchmarks" / "profiling.json", ROOT / "docs" / "profiling.md"
SETTINGS_BUDGET_S, SETTINGS_LIMIT_S = 20.0, 60.0
BUDGET_S, EPOCHS, AUTO_SAMPLES = 12.0, 3, 2_000
TRAINING_PAIRS = 5
TRAINING_EPOCHS = {"digits": 40, "text": 4}  # some seconds: starting workers must not count


def main() -> None:
    """Measure, unless the page alone is asked for; write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page only")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds a profile")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part only")
    parser.add_argument("--one", nargs=2, metavar=("LOAD", "LOADER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(_setting_errors(*args.one)))
        return
    for part in () if args.page else args.only or PARTS:
        document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found = PARTS[part](args.budget)
        document |= {"machine": _machine(), part: found}
        RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    _write_page(json.loads(RESULTS.read_text()))


def _machine() -> dict[str, Any]:
    from dataclasses import asdict

    from fastload.tools.bench.machine import describe_machine

    return asdict(describe_machine())


def _step(step_s: float, _: Any) -> None:
    time.sleep(step_s)


def _verdicts(budget_s: float) -> list[dict[str, Any]]:
    from fastload.tools.profile.profiler import Plan, profile
    from tests.tools.profile.loads import CASES, make

    found = []
    for kind in ("fastload", "torch"):
        for name, case in CASES.items():
            load, step_s = os.getloadavg()[0], case.step_ms / 1e3
            plan = Plan(make(name, kind), name, functools.partial(_step, step_s), "", budget_s)
            each = profile(plan)
            run = next(v for v in each.verified if v.setting == each.recommended)
            found.append(
                {
                    "load": name,
                    "loader": kind,
                    "expected": case.culprit,
                    "culprit": each.verdict.culprit,
                    "stall_share": each.verdict.stall_share,
                    "workers": each.recommended.num_workers,
                    "prefetch_factor": each.recommended.prefetch_factor,
                    "predicted": run.predicted_samples_per_s,
                    "measured": run.measured_samples_per_s,
                    "gain": each.fixes[0].gain,
                    "fix": each.fixes[0].title,
                    "system_load": load,
                }
            )
            print(found[-1], file=sys.stderr)
    return found


def _settings(_budget_s: float) -> list[dict[str, Any]]:
    from tests.tools.profile.loads import REALISTIC

    return [_in_a_group(name, kind) for kind in ("fastload", "torch") for name in REALISTIC]


def _in_a_group(name: str, kind: str) -> dict[str, Any]:
    """Profile one load in a process group that does not outlive its time."""
    command = [sys.executable, __file__, "--one", name, kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    found: dict[str, Any] = {"load": name, "loader": kind, "system_load": os.getloadavg()[0]}
    try:
        out, _ = process.communicate(timeout=SETTINGS_LIMIT_S)
        found |= (
            json.loads(out.splitlines()[-1]) if process.returncode == 0 else {"failure": "raised"}
        )
    except subprocess.TimeoutExpired:
        found["failure"] = f"took more than {SETTINGS_LIMIT_S:g} s and was killed"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    print(found, file=sys.stderr)
    return found


def _setting_errors(name: str, kind: str) -> dict[str, Any]:
    from fastload.tools.profile.profiler import Plan, profile
    from tests.tools.profile.loads import REALISTIC, make

    case = REALISTIC[name]
    step_s, started_s = case.step_ms / 1e3, time.monotonic()
    plan = Plan(make(name, kind), name, lambda _: time.sleep(step_s), "", SETTINGS_BUDGET_S)
    each = profile(plan)
    return {
        "expected": case.culprit,
        "culprit": each.verdict.culprit,
        "stall_share": each.verdict.stall_share,
        "headroom": each.verdict.headroom,
        "elapsed_s": time.monotonic() - started_s,
        "runs": [
            {
                "workers": run.setting.num_workers,
                "prefetch_factor": run.setting.prefetch_factor,
                "predicted": run.predicted_samples_per_s,
                "measured": run.measured_samples_per_s,
            }
            for run in each.verified
        ],
    }


def _trainings(budget_s: float) -> list[dict[str, Any]]:
    return [_training(task, own, budget_s) for task in ("digits", "text") for own in (0, 2)]


def _training(task: Any, own_workers: int, budget_s: float) -> dict[str, Any]:
    """Profile, then train as it is and as advised, in turn, every second time the other first."""
    from fastload.tools.profile.profiler import Plan, profile
    from fastload.tools.profile.target import find_loader, find_step
    from fastload.tools.training import TrainingConfig, train

    home = f"fastload.tools.training.profiled:{task}"
    loader: Any = find_loader(home)
    if own_workers != loader.num_workers:
        loader = loader.replace(num_workers=own_workers)
    each = profile(Plan(loader, home, find_step(f"{home}_step"), "", 2 * budget_s))
    own, advised = each.setting, each.recommended

    def rate(setting: Any) -> float:
        factor = setting.prefetch_factor or None
        epochs = TRAINING_EPOCHS[task]
        config = TrainingConfig(
            task=task, workers=setting.num_workers, prefetch_factor=factor, epochs=epochs
        )
        return train(config).samples_per_s

    pairs = []
    for number in range(TRAINING_PAIRS):
        first = rate(advised) if number % 2 else None
        before = rate(own)
        pairs.append((before, rate(advised) if first is None else first))
    run = next(v for v in each.verified if v.setting == advised)
    return {
        "task": task,
        "sentence": each.verdict.sentence,
        "advice": each.fixes[0].title,
        "own_workers": own.num_workers,
        "advised_workers": advised.num_workers,
        "predicted_gain": run.predicted_gain,
        "profiled_gain": run.gain,
        "trained_gain": statistics.median(after / before for before, after in pairs),
        "before": statistics.median(before for before, _ in pairs),
        "after": statistics.median(after for _, after in pairs),
    }


def _autos(_budget_s: float) -> list[dict[str, Any]]:
    return [_auto(name) for name in ("waiting", "computing")]


def _auto(name: str) -> dict[str, Any]:
    import fastload
    from tests.tools.profile.loads import CASES

    case = CASES[name]

    def rate(workers: Any) -> tuple[float, float, str]:
        dataset: Any = case.dataset()
        dataset.samples = AUTO_SAMPLES
        loader: Any = fastload.DataLoader(
            dataset,
            batch_size=case.batch_size,
            num_workers=workers,
            persistent_workers=workers != 0,
        )
        rates = []
        with loader:
            for _ in range(EPOCHS):
                started, samples = time.perf_counter(), 0
                for batch in loader:
                    samples += len(batch)
                rates.append((samples, time.perf_counter() - started))
            choice = loader.stats().choice
        whole = sum(n for n, _ in rates) / sum(s for _, s in rates)
        return whole, rates[-1][0] / rates[-1][1], choice

    fixed = {str(workers): rate(workers)[0] for workers in (0, 1, 2, 4, 8, 16)}
    whole, last, choice = rate("auto")
    return {"load": name, "fixed": fixed, "auto": whole, "auto_last": last, "choice": choice}


def _write_page(document: dict[str, Any]) -> None:
    text = PAGE.read_text()
    for name, lines_of in (
        ("verdicts", _verdict_lines),
        ("settings", _setting_lines),
        ("training", _training_lines),
        ("auto", _auto_lines),
    ):
        if name in document:
            begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(end)
            text = f"{before}{begin}\n" + "\n".join(lines_of(document)) + f"\n{end}{after}"
    PAGE.write_text(text)


def _verdict_lines(document: dict[str, Any]) -> list[str]:
    machine = document["machine"]
    heads = ("load", "loader", "limited by", "verdict", "recommended", "predicted, samples/s")
    more = ("measured", "error", "first advice, gain", "load average before")
    python, torch = machine["python"], machine["torch"]
    where = f"{machine['cores']} cores ({machine['processor']})"
    return [
        f"Python {python}, torch {torch}, {where}.",
        "",
        *_table((*heads, *more)),
        *map(_verdict_line, document["verdicts"]),
    ]


def _verdict_line(v: dict[str, Any]) -> str:
    is_right = v["culprit"] == v["expected"]
    cells = (
        *(v["load"], v["loader"], v["expected"], "right" if is_right else f"**{v['culprit']}**"),
        f"{v['workers']} x {v['prefetch_factor']}",
        *(f"{v['predicted']:,.0f}", f"{v['measured']:,.0f}"),
        f"{v['predicted'] / v['measured'] - 1:+.0%}",
        f"{v['fix']}: x {v['gain']:.2f}",
        f"{v['system_load']:.1f}",
    )
    return _row(cells)


def _setting_lines(document: dict[str, Any]) -> list[str]:
    heads = ("load", "loader", "limited by", "verdict", "stall", "workers x ahead: error", "worst")
    return [
        *_table((*heads, "seconds", "load average before")),
        *map(_setting_line, document["settings"]),
    ]


def _setting_line(s: dict[str, Any]) -> str:
    if "failure" in s:
        return _row((s["load"], s["loader"], s["failure"], *[""] * 5, f"{s['system_load']:.1f}"))
    errors = [run["predicted"] / run["measured"] - 1 for run in s["runs"]]
    runs = zip(s["runs"], errors, strict=True)
    cells = (
        *(s["load"], s["loader"], s["expected"]),
        "right" if s["culprit"] == s["expected"] else f"**{s['culprit']}**",
        f"{s['stall_share']:.0%}",
        ", ".join(f"{r['workers']} x {r['prefetch_factor']}: {e:+.0%}" for r, e in runs),
        f"{max(map(abs, errors)):.0%}",
        *(f"{s['elapsed_s']:.0f}", f"{s['system_load']:.1f}"),
    )
    return _row(cells)


def _training_lines(document: dict[str, Any]) -> list[str]:
    heads = ("task", "verdict", "workers, own / advised", "gain predicted", "gain in the profile")
    lines = _table((*heads, "gain in the training run", "samples/s before / after"))
    for t in document["training"]:
        workers = f"{t['own_workers']} / {t['advised_workers']}"
        gains = (f"{t[f'{kind}_gain']:.2f}" for kind in ("predicted", "profiled", "trained"))
        rates = f"{t['before']:,.0f} / {t['after']:,.0f}"
        lines.append(_row((t["task"], t["sentence"], workers, *gains, rates)))
    return lines


def _auto_lines(document: dict[str, Any]) -> list[str]:
    numbers = list(document["auto"][0]["fixed"])
    lines = _table(("load", *(f"{n} workers" for n in numbers), "auto", "its last epoch", "chose"))
    for a in document["auto"]:
        rates = (*(a["fixed"][n] for n in numbers), a["auto"], a["auto_last"])
        lines.append(_row((a["load"], *(f"{rate:,.0f}" for rate in rates), a["choice"])))
    return lines


def _table(heads: tuple[str, ...]) -> list[str]:
    return [_row(heads), "|---" * len(heads) + "|"]


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


PARTS = {"verdicts": _verdicts, "settings": _settings, "training": _trainings, "auto": _autos}

if __name__ == "__main__":
    main()
