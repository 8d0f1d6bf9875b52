"""Write docs/benchmarks.md, and the README's table and chart, from the files of results.

    fastload bench --rounds 10 --json benchmarks/results.json
    fastload bench --rounds 10 --seed 0 --json benchmarks/seed.json
    python benchmarks/test_seed.py
    python benchmarks/images.py
    python benchmarks/tar.py
    python benchmarks/publish.py

No figure in either page is typed by hand. The chart needs matplotlib (``fastload[plot]``).
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from fastload.tools.bench.ratios import geometric_mean

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
PICTURES = ROOT / "docs" / "pictures"
SHORT = ("images-uint8", "jpeg", "digits", "tiny-tensor", "tokens")
"""Lists the workloads in the README, beside the one with the lowest ratio."""

BAR = "#3b7dd8"
LIGHT, DARK = "#1f2328", "#e6edf3"
STYLES = {
    name: dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), colour
    )
    for name, colour in (("light", LIGHT), ("dark", DARK))
}
PEERS = ROOT / "benchmarks" / "peers.json"
SEED = ROOT / "benchmarks" / "seed.json"
IMAGES = ROOT / "benchmarks" / "images.json"
IMAGES_MARKS = "<!-- images -->", "<!-- end of images -->"
TAR = ROOT / "benchmarks" / "tar.json"
TAR_MARKS = "<!-- tar -->", "<!-- end of tar -->"
SEED_MARKS = "<!-- seed -->", "<!-- end of seed -->"
PEERS_MARKS = "<!-- peers -->", "<!-- end of peers -->"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
COLUMNS = (
    *("workload", "workers", "torch, samples/s", "fastload, samples/s", "ratio", "at least"),
    *("first batch, ms", "CPU s", "peak MiB"),
)
HEAD = (
    f"| {' | '.join(COLUMNS)} |",
    "|---|---|---|---|---|---|---|---|---|",
)
OWN = (
    "Above, both loaders get the same dataset and collate function; only the import differs. "
    "Below, torch's loader gets what is usually written, fastload's its own dataset, collate "
    "function or options for the same batches."
)


def main() -> None:
    """Regenerate both pages."""
    results = json.loads(RESULTS.read_text())
    put(BENCHMARKS, make_tables(results), BEGIN, END)
    put(README, _short_table(results), BEGIN, END)
    for name, style in STYLES.items():
        draw_ratios(results, PICTURES / f"ratios-{name}.svg", style)
    if SEED.exists():
        document = json.loads(SEED.read_text())
        seeded = make_tables(document).replace(
            "fastload, samples/s", f"{document['settings']['candidate']}, samples/s"
        )
        put(BENCHMARKS, seeded, *SEED_MARKS)
    if PEERS.exists():
        put(BENCHMARKS, _peers(json.loads(PEERS.read_text())), *PEERS_MARKS)
    if IMAGES.exists():
        put(BENCHMARKS, _images(json.loads(IMAGES.read_text())), *IMAGES_MARKS)
    if TAR.exists():
        put(BENCHMARKS, _tar(json.loads(TAR.read_text())), *TAR_MARKS)


def make_tables(document: dict[str, Any]) -> str:
    """A table of the workloads in which both loaders had the same data, and one of the others.

    Results of before there were others have no ``same_data`` and one table.
    """
    same: list[str] = []
    own: list[str] = []
    for workload in document["workloads"]:
        (same if workload.get("same_data", True) else own).append(_row(workload))
    lines = [_conditions(document), "", *HEAD, *same]
    if own:
        lines += ["", OWN, "", *HEAD, *own]
    return "\n".join([*lines, "", _mean(document)])


def _short_table(document: dict[str, Any]) -> str:
    """A few rows for the README; the last one has the lowest ratio of those with the same data."""
    measured = [
        each for each in document["workloads"] if each["summary"] and each.get("same_data", True)
    ]
    lowest = min(measured, key=_ratio_of)
    chosen = [each for each in measured if each["workload"] in SHORT and each is not lowest]
    rows = [_row(each) for each in (*chosen, lowest)]
    return "\n".join([_conditions(document), "", *HEAD, *rows])


def draw_ratios(document: dict[str, Any], path: Path, style: dict[str, Any]) -> None:
    """Draw how many times torch's throughput fastload has, where both get the same data."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    workloads = [
        each
        for each in document["workloads"]
        if each["workers"] and each["summary"] and each.get("same_data", True)
    ]
    workloads.sort(key=_ratio_of)
    ratios = [_ratio_of(each) for each in workloads]
    settings: Any = {"svg.hashsalt": "fastload", "svg.fonttype": "none", **style}
    with mpl.rc_context(settings):
        figure, axes = plt.subplots(figsize=(8, 0.3 * len(ratios) + 0.9), layout="constrained")
        bars = axes.barh([each["workload"] for each in workloads], ratios, color=BAR)
        axes.bar_label(bars, [f"{ratio:.1f}" for ratio in ratios], padding=3)
        axes.axvline(1, color=style["text.color"], linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        axes.minorticks_off()
        axes.set_xlim(0.8, 2 * max(ratios))
        axes.set_xlabel("samples a second, as a multiple of torch's DataLoader (2 workers)")
        axes.spines[["top", "right"]].set_visible(False)
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def _ratio_of(workload: dict[str, Any]) -> float:
    return float(workload["summary"]["ratio"]["median"])


def put(page: Path, table: str, begin: str, end: str) -> None:
    """Replace what stands between two marks of a page."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def _peers(document: dict[str, Any]) -> str:
    ratios: dict[str, dict[str, float | None]] = document["ratios"]
    workloads = list(dict.fromkeys(name for found in ratios.values() for name in found))
    rows = [
        "| " + " | ".join([name, *(_ratio(found.get(each)) for each in workloads)]) + " |"
        for name, found in ratios.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    head = "| loader | " + " | ".join(workloads) + " |", "|---" * (len(workloads) + 1) + "|"
    return "\n".join([f"{_conditions(document)} {versions}.", "", *head, *rows])


DECODE = "JPEG 256x256 to uint8 (3, 256, 256)"
AUGMENT = "JPEG 500x375 to RandomResizedCrop 224, flip, float32"
IMAGE_LINES = (
    ("decode", DECODE, "torch", "torch's loader and Pillow", 4.0),
    ("decode", DECODE, "limit", "two bare processes that decode into one buffer", 0.75),
    ("decode", DECODE, "torch, simplejpeg", "torch's loader, simplejpeg in the dataset", None),
    (
        *("decode", DECODE, "change of import, simplejpeg"),
        *("fastload's loader, simplejpeg in the user's dataset", 1.7),
    ),
    ("decode", DECODE, "change of import", "fastload's loader, Pillow in the user's dataset", None),
    ("augment", AUGMENT, "torch", "torch's loader and Pillow", 2.5),
    ("augment", AUGMENT, "change of import", "fastload's loader and Pillow", None),
)
"""Lists load, its words, what fastload's own way is held against, its words, and the goal."""


def _images(document: dict[str, Any]) -> str:
    rows = []
    for load, words, other, other_words, goal in IMAGE_LINES:
        rates = document["rates"][load]
        own, against = statistics.median(rates["fastload"]), statistics.median(rates[other])
        ratio = statistics.median(
            mine / theirs for mine, theirs in zip(rates["fastload"], rates[other], strict=True)
        )
        missed = "" if goal is None or ratio >= goal else " (missed)"
        wanted = "none set" if goal is None else f"at least {goal:g}{missed}"
        rows.append(
            f"| {words} | {other_words} | {against:,.0f} | {own:,.0f} | **{ratio:.2f}** "
            f"| {wanted} |"
        )
    head = (
        "| load | held against | its images/s | fastload, images/s | ratio | goal |",
        "|---|---|---|---|---|---|",
    )
    return "\n".join([_conditions(document), "", *head, *rows])


TAR_LINES = (
    ("webdataset", "webdataset's WebLoader, decoded by Pillow", None),
    ("torch", "torch's loader, Python's tarfile, Pillow", None),
    ("fastload", "`TarStream`, without indices", 3.0),
    ("fastload, indexed", "`TarStream`, with indices", 3.0),
    ("fastload, seed=0", "`TarStream`, with indices, `seed=0`", None),
)
"""Lists a way, its words, and the goal: how many times as fast as webdataset it is to be."""


def _tar(document: dict[str, Any]) -> str:
    rates = document["rates"]
    rows = []
    for way, words, goal in TAR_LINES:
        pairs = zip(rates[way], rates["webdataset"], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        missed = "" if goal is None or ratio >= goal else " (missed)"
        wanted = "none set" if goal is None else f"at least {goal:g}{missed}"
        rows.append(f"| {words} | {statistics.median(rates[way]):,.0f} | {ratio:.2f} | {wanted} |")
    head = ("| way | images/s | of webdataset | goal |", "|---|---|---|---|")
    return "\n".join([_conditions(document), "", *head, *rows])


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _conditions(document: dict[str, Any]) -> str:
    machine, settings = document["machine"], document["settings"]
    return (
        f"Python {machine['python']}, torch {machine['torch']}, {machine['cores']} cores "
        f"({machine['processor']}), medians of {settings['rounds']} interleaved pairs in "
        f"fresh processes, equal batches checked first."
    )


def _row(workload: dict[str, Any]) -> str:
    summary = workload["summary"]
    if summary is None:
        return f"| {workload['description']} | {workload['workers']} | failed | | | | | | |"
    before, after, ratio = summary["baseline"], summary["candidate"], summary["ratio"]
    unit = " epochs/s" if workload["unit"] == "epochs" else ""

    def both(name: str, factor: float, form: str) -> str:
        return " / ".join(f"{side[name] * factor:{form}}" for side in (before, after))

    return (
        f"| {workload['description']} | {workload['workers']} "
        f"| {before['rate']:,.0f}{unit} | {after['rate']:,.0f}{unit} "
        f"| **{ratio['median']:.2f}** | {ratio['lower']:.2f} "
        f"| {both('first_batch_s', 1e3, '.0f')} | {both('cpu_s_per_epoch', 1, '.2f')} "
        f"| {both('peak_memory_bytes', 2**-20, '.0f')} |"
    )


def _mean(document: dict[str, Any]) -> str:
    mean = document["geometric_mean"]
    drop_in = mean.get("drop_in", mean["with_workers"])
    both = f", {_ratio(mean['with_workers'])} with the second table" if "drop_in" in mean else ""
    return (
        f"Geometric mean: **{_ratio(drop_in)}** with workers "
        f"({_ratio(_mean_without_the_best(document))} without the workload that gains most){both}, "
        f"{_ratio(mean['all'])} over all. *At least*: the lower end of a 95 % interval over the "
        f"pairs. Columns with two figures: torch / fastload."
    )


def _mean_without_the_best(document: dict[str, Any]) -> float | None:
    """Of the ratios with workers and the same data: how much of their mean is one workload's."""
    ratios = [
        workload["summary"]["ratio"]["median"]
        for workload in document["workloads"]
        if workload["workers"] and workload["summary"] and workload.get("same_data", True)
    ]
    return geometric_mean(sorted(ratios)[:-1])


if __name__ == "__main__":
    main()
