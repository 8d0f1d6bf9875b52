"""Find the columns that the folders of a file say: ``day=2025-01-01/part-0.parquet`` (hive).

Runs in: the process that makes the dataset, and its workers.
Takes: paths, each with the folder below which its own folders count.
Gives: fields of a schema, and the value of each in a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")

Value = int | str | None


class Partitions(NamedTuple):
    """The columns that are in paths and not in files.

    Attributes:
        fields: A ``pyarrow.Field`` each: int64 if all of its values are integers, else string.
        values: Each path with its values, in the order of the fields.
    """

    fields: tuple[Any, ...] = ()
    values: tuple[tuple[str, tuple[Value, ...]], ...] = ()

    def of(self, path: str, schema: Any) -> dict[str, Any]:
        """Return as scalars the columns that a file has of its path and not itself."""
        if not self.fields:
            return {}
        values = dict(self.values)[path]
        pairs = zip(self.fields, values, strict=True)
        return {
            field.name: pa.scalar(value, field.type)
            for field, value in pairs
            if field.name not in schema.names
        }

    def schema(self, schema: Any) -> Any:
        """Return the schema of a file with the columns of its path behind its own."""
        for field in self.fields:
            if field.name not in schema.names:
                schema = schema.append(field)
        return schema


def find_partitions(files: Iterable[tuple[str, str]]) -> Partitions:
    """Return the columns that the folders of files say.

    Args:
        files: Each path, and the beginning of it that does not count.

    Raises:
        ValueError: The files lie in folders of different names.
    """
    said = {path: _said(path, base) for path, base in files}
    names = list(next(iter(said.values()), {}))
    for path, pairs in said.items():
        if list(pairs) != names:
            raise ValueError(
                f"the files of a dataset lie in folders of the same names, but {next(iter(said))} "
                f"in folders for {names} and {path} in folders for {list(pairs)}; name the files, "
                f"or one of the folders"
            )
    if not names:
        return Partitions()
    fields, columns = [], []
    for name in names:
        texts = [pairs[name] for pairs in said.values()]
        are_integers = all(text is None or _INTEGER.fullmatch(text) for text in texts)
        fields.append(pa.field(name, pa.int64() if are_integers else pa.string()))
        columns.append([int(t) if are_integers and t is not None else t for t in texts])
    return Partitions(tuple(fields), tuple(zip(said, zip(*columns, strict=True), strict=True)))


def _said(path: str, base: str) -> dict[str, str | None]:
    pairs: dict[str, str | None] = {}
    for folder in PurePosixPath(path).relative_to(base).parts[:-1]:
        name, sign, text = folder.partition("=")
        if sign and name:
            pairs[unquote(name)] = None if text == _NULL else unquote(text)
    return pairs
