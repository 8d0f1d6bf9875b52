"""`fastload index`: say once, in a file beside each tar shard, where its samples lie."""

import argparse
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from fastload.tools.cli.console import file_errors, make_output, make_progress, print_json, warn
from fastload.tools.cli.exits import Exit
from fastload.tools.words import one_line

SCHEMA_VERSION = 1

_LONGEST = 500


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "index",
        help="make the index of tar shards: lengths, exact shares, random access",
        description="Read tar shards once and write beside each (SHARD.index.npz) where its "
        "samples lie, with checksums. A shard whose index is up to date is left alone. Exit code "
        "1 if a shard is damaged.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "shards",
        nargs="+",
        metavar="SHARD",
        help="a tar file, plain or packed by gzip, or a pattern (a-{000..009}.tar)",
    )
    parser.add_argument("--force", action="store_true", help="make each index anew")
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Make the indices that are missing or of another state, and show them all."""
    from fastload.datasets.tar_files import INDEX_SUFFIX, find_shards

    named = [name for name in args.shards if not name.endswith(INDEX_SUFFIX)]
    try:
        shards = find_shards(named)
    except (OSError, ValueError) as error:
        warn(f"fastload index: {error}")
        return Exit.USAGE
    found = []
    progress = make_progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with progress:
        for shard in shards:
            line = progress.add_task(one_line(shard), total=Path(shard).stat().st_size)
            found.append(
                _index(
                    shard,
                    force=args.force,
                    advance=lambda size, line=line: progress.advance(line, size),
                )
            )
            progress.remove_task(line)
    if args.json:
        print_json({"schema_version": SCHEMA_VERSION, "shards": found})
    else:
        _show(found)
    return Exit.BAD if any(each["error"] for each in found) else Exit.OK


def _index(shard: str, *, force: bool, advance: Any) -> dict[str, Any]:
    """Return what became of a shard: its index is current, made, or can't be."""
    from fastload.datasets.tar_index import build_index, index_path, load_index, write_index

    state, error, index = "current", None, None
    if not force:
        try:
            index = load_index(shard)
        except ValueError:
            index = None  # of another state, or damaged: it is made anew
    if index is None or len(index.crcs) != len(index.sizes):
        state = "made"
        try:
            index = build_index(shard, checksums=True, advance=advance)
        except (ValueError, OSError) as raised:
            state, error = "damaged", str(raised)
        else:
            with file_errors(Path(index_path(shard))):
                write_index(shard, index)
    return {
        "shard": shard,
        "index": index_path(shard),
        "state": state,
        "samples": None if error or index is None else index.samples,
        "fields": None if error or index is None else index.names,
        "error": error,
    }


def _show(found: list[dict[str, Any]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("shard", "index", "samples", "fields"):
        table.add_column(name, justify="right" if name == "samples" else "left", overflow="fold")
    for each in found:
        samples = "" if each["samples"] is None else f"{each['samples']:,}"
        fields = each["error"] or ", ".join(each["fields"])
        table.add_row(
            one_line(each["shard"], _LONGEST), each["state"], samples, one_line(fields, _LONGEST)
        )
    output = make_output()
    output.print(table)
    total = sum(each["samples"] or 0 for each in found)
    output.print(f"{total:,} samples in {len(found):,} shards")
