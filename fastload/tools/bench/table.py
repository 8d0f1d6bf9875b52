"""Show results as a table for people."""

from collections.abc import Sequence

from rich.table import Table

from fastload.tools.bench.results import WorkloadResult
from fastload.tools.bench.suite import Settings
from fastload.tools.bench.summary import WorkloadSummary, mean_ratios, summarize
from fastload.tools.words import counted


def make_table(settings: Settings, results: Sequence[WorkloadResult]) -> Table:
    """Return one row per workload; columns with two figures show baseline and candidate.

    In the column `data`, `same` means that both had the same dataset and collate function, `own`
    that fastload had its own and the baseline the usual ones.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    longest = max((len(result.workload) for result in results), default=0)
    table.add_column("workload", min_width=longest, overflow="fold")
    both = f"\n{settings.baseline} / {settings.candidate}"
    for title in (
        "data",
        "workers",
        f"samples/s\n{settings.baseline}",
        f"samples/s\n{settings.candidate}",
        "ratio",
        "at least",
        f"first batch, ms{both}",
        f"CPU s per epoch{both}",
        f"peak memory, MiB{both}",
    ):
        table.add_column(title, justify="right", overflow="fold")
    for result in results:
        summary = summarize(result, settings)
        if summary is None:
            kind = result.failure.kind if result.failure is not None else "no pair"
            what = (result.workload, _data(result), str(result.workers))
            table.add_row(*what, "", "", kind, style="red")
        else:
            table.add_row(*_cells(summary))
    return table


def make_footer(settings: Settings, results: Sequence[WorkloadResult]) -> str:
    """Return the line with the geometric means, that of the loader alone first."""
    found = (summarize(result, settings) for result in results)
    summaries = [summary for summary in found if summary is not None]
    means = mean_ratios(summaries, workers=settings.workers)
    names = {
        "drop_in": f"with {counted(settings.workers, 'worker')} and the same data",
        "with_workers": f"with {counted(settings.workers, 'worker')}",
        "all": "over all",
    }
    words = [f"{mean:.2f} {names[name]}" for name, mean in means.items() if mean is not None]
    return f"geometric mean of the ratios: {', '.join(words) or 'none'}"


def _data(result: WorkloadResult | WorkloadSummary) -> str:
    return "same" if result.same_data else "own"


def _cells(summary: WorkloadSummary) -> list[str]:
    before, after = summary.baseline, summary.candidate
    suffix = " ep/s" if summary.unit == "epochs" else ""
    return [
        summary.workload,
        _data(summary),
        str(summary.workers),
        _rate(before.rate) + suffix,
        _rate(after.rate) + suffix,
        f"{summary.ratio.median:.2f}",
        f"{summary.ratio.lower:.2f}",
        f"{before.first_batch_s * 1e3:.1f} / {after.first_batch_s * 1e3:.1f}",
        f"{before.cpu_s_per_epoch:.3f} / {after.cpu_s_per_epoch:.3f}",
        f"{before.peak_memory_bytes / 2**20:.0f} / {after.peak_memory_bytes / 2**20:.0f}",
    ]


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
