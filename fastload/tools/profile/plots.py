"""The same four pictures as an image file, by matplotlib (`pip install 'fastload[plot]'`).

Runs in: consumer, or where a saved profile is read; without torch.
Takes: a profile.
Gives: a matplotlib figure, or a PNG file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastload.tools.profile.pictures import colors
from fastload.tools.profile.pictures.shapes import rate, seconds
from fastload.tools.profile.pictures.timeline import lanes_of
from fastload.tools.profile.report import Profile


def draw(profile: Profile) -> Any:
    """Return a `matplotlib.figure.Figure` with the four pictures.

    It belongs to no window and to no state of `pyplot`, so it need not be closed.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 12), layout="constrained")
    batch, timeline, below = figure.subplots(3, 1, height_ratios=(1, 2, 4))
    below.remove()
    lower = figure.add_subfigure(below.get_subplotspec())
    heat, trust = lower.subplots(1, 2)
    figure.suptitle(profile.verdict.sentence, wrap=True)
    _draw_batch(batch, profile)
    _draw_timeline(timeline, profile)
    _draw_heat(heat, profile)
    _draw_trust(trust, profile)
    return figure


def save(profile: Profile, path: Path) -> None:
    """Draw into a PNG file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: The file can't be written.
    """
    draw(profile).savefig(path, dpi=120, format="png")


def _draw_batch(axes: Any, profile: Profile) -> None:
    left = 0.0
    for share in profile.breakdown:
        words = f"{share.stage} {share.share:.0%} ({seconds(share.mean_s)})"
        axes.barh(0, share.share, left=left, color=colors.of_stage(share.stage), label=words)
        left += share.share
    axes.set(title="where the time of one batch goes", yticks=[], xlim=(0, max(left, 1e-9)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if profile.breakdown:
        axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.35), frameon=False)


def _draw_timeline(axes: Any, profile: Profile) -> None:
    lanes = lanes_of(profile)
    for stage in dict.fromkeys(span.stage for span in profile.spans):
        for number, lane in enumerate(lanes):
            pieces = [
                (span.start_s, span.end_s - span.start_s)
                for span in profile.spans
                if (span.lane, span.stage) == (lane, stage)
            ]
            label = stage if number == 0 else "_"
            axes.broken_barh(pieces, (number - 0.4, 0.8), color=colors.of_stage(stage), label=label)
    axes.set(title="who did what, when", yticks=range(len(lanes)), yticklabels=lanes)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: seconds(value))
    if lanes:
        axes.legend(ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)


def _draw_heat(axes: Any, profile: Profile) -> None:
    import numpy as np

    workers = sorted({p.setting.num_workers for p in profile.own_grid})
    factors = sorted({p.setting.prefetch_factor for p in profile.own_grid})
    rates = np.full((len(workers), len(factors)), np.nan)
    for each in profile.own_grid:
        place = workers.index(each.setting.num_workers), factors.index(each.setting.prefetch_factor)
        rates[place] = each.samples_per_s if each.is_possible else np.nan
        words = rate(each.samples_per_s) if each.is_possible else "memory"
        mark = "*" if each.setting == profile.recommended else ""
        axes.text(
            *place[::-1], words + mark, ha="center", va="center", bbox={"fc": "white", "alpha": 0.7}
        )
    if rates.size:
        axes.imshow(rates, cmap="Blues", vmin=0, aspect="auto")
    axes.set(
        title="predicted samples/s (* recommended)",
        xlabel="prefetch_factor",
        ylabel="num_workers",
        xticks=range(len(factors)),
        xticklabels=[factor or "none" for factor in factors],
        yticks=range(len(workers)),
        yticklabels=workers,
    )


def _draw_trust(axes: Any, profile: Profile) -> None:
    names = [
        "\n".join(
            (
                f"{v.setting.num_workers} / {v.setting.prefetch_factor}",
                *v.setting.schedule.arguments,
            )
        )
        for v in profile.verified
    ]
    at = range(len(names))
    for offset, name, color in (
        (-0.2, "predicted", colors.PREDICTED),
        (0.2, "measured", colors.MEASURED),
    ):
        values = [getattr(each, f"{name}_samples_per_s") for each in profile.verified]
        bars = axes.bar([each + offset for each in at], values, 0.4, label=name, color=color)
        axes.bar_label(bars, [rate(value) for value in values])
    axes.set(title="predicted and measured", xticks=at, xticklabels=names, ylabel="samples/s")
    axes.set_xlabel("num_workers / prefetch_factor")
    if names:
        axes.legend(frameon=False)
