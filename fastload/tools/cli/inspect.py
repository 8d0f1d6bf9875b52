"""`fastload inspect`: what is in a folder of images, a tar shard, a Parquet or an Arrow file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from fastload.tools.cli.console import (
    count,
    file_errors,
    make_output,
    print_json,
    result_file,
    warn,
)
from fastload.tools.cli.exits import Exit
from fastload.tools.words import one_line

if TYPE_CHECKING:
    from fastload.tools.inspect import Inspection

_LONGEST = 500


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "inspect",
        help="look into a folder of images, tar shards, a Parquet or an Arrow file",
        description="Show rows, columns or members, their sizes, a few samples, and what a batch "
        "of them looks like. Nothing that could run code is read. Exit code 1 if something is "
        "damaged.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a tar shard or a pattern of some (a-{000..009}.tar), a Parquet or Arrow file, or a "
        "folder of either of them or of images",
    )
    parser.add_argument(
        "--samples", type=count(1), default=5, metavar="N", help="samples to show (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    parser.add_argument(
        "--html", type=result_file, metavar="FILE", help="write a page with thumbnails too"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Look at the files, show what is there, and return the verdict as an exit code."""
    from fastload.errors import CorruptDataError
    from fastload.tools.inspect import inspect_path

    try:
        found = inspect_path(args.path, args.samples)
    except CorruptDataError as error:
        warn(f"fastload inspect: {error}")
        return Exit.BAD
    except (OSError, ValueError) as error:
        warn(f"fastload inspect: {error}")
        return Exit.USAGE
    if args.html is not None:
        _write_page(args.html, found)
    if args.json:
        print_json(found.to_dict())
    else:
        _show(found)
    return Exit.BAD if found.is_bad else Exit.OK


def _write_page(path: Path, found: "Inspection") -> None:
    from fastload.tools.inspect.page import render_page

    # Names that the locale could not decode are written as the bytes they came as.
    with file_errors(path):
        path.write_text(render_page(found), encoding="utf-8", errors="surrogateescape")


def _show(found: "Inspection") -> None:
    output = make_output()
    output.print(f"{one_line(found.path, _LONGEST)}: {found.kind}")
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, value in found.facts.items():
        facts.add_row(Text(name, style="dim"), one_line(value, _LONGEST))
    output.print(facts)
    for problem in found.problems:
        output.print(Text(f"-> {one_line(problem, _LONGEST)}", style="yellow"))
    output.print(_parts(found))
    output.print(_samples(found))
    output.print(_pairs("a batch of these samples", found.batch))


def _parts(found: "Inspection") -> Table:
    from fastload.tools.inspect.inspection import size_words

    table = Table(box=None, padding=(0, 2, 0, 0), title=found.parts_are, title_justify="left")
    for name in ("name", "kind"):
        table.add_column(name, overflow="fold")
    for name in ("samples", "smallest", "median", "largest"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in found.parts:
        sizes = ["", "", ""] if part.sizes is None else [size_words(size) for size in part.sizes]
        table.add_row(one_line(part.name), one_line(part.kind, _LONGEST), f"{part.count:,}", *sizes)
    return table


def _samples(found: "Inspection") -> Table:
    table = Table(
        box=None, padding=(0, 2, 0, 0), title="samples", title_justify="left", show_header=False
    )
    for _ in range(3):
        table.add_column(overflow="fold")
    for sample in found.samples:
        name = one_line(sample.name, _LONGEST)
        for field, words in sample.values.items():
            table.add_row(name, Text(one_line(field), style="dim"), one_line(words, _LONGEST))
            name = ""
    return table


def _pairs(title: str, pairs: dict[str, str]) -> Table:
    table = Table(
        box=None, padding=(0, 2, 0, 0), title=title, title_justify="left", show_header=False
    )
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, words in pairs.items():
        table.add_row(Text(one_line(name), style="dim"), one_line(words, _LONGEST))
    return table
