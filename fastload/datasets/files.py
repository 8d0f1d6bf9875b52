"""Find the files of a dataset, and compare their schemas.

Runs in: the process that makes the dataset.
Takes: what the user named: paths, globs, folders, on a local disk or in a file system of pyarrow's.
Gives: a list of paths in a fixed order, and one schema for all of them.
"""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs

WILDCARDS = frozenset("*?[")


class Files(NamedTuple):
    """The files of a dataset."""

    filesystem: Any
    """A ``pyarrow.fs.FileSystem``; None: the local disk."""

    paths: tuple[str, ...]

    def open(self, path: str) -> Any:
        """A ``pyarrow.NativeFile``; a local file is mapped.

        Raises:
            OSError: It can't be opened.
        """
        if self.filesystem is None:
            return pa.memory_map(path)
        return self.filesystem.open_input_file(path)


def find_files(source: Any, filesystem: Any, suffixes: tuple[str, ...]) -> Files:
    """Look up what the user named.

    Args:
        source: A path, a glob pattern, a folder (all files below it with one of the suffixes, but
            none whose name begins with ``.`` or ``_``), a URI such as ``s3://…``, or an iterable of
            such. Files from a pattern or a folder are sorted by path.
        filesystem: A ``pyarrow.fs.FileSystem``; None: the local disk, or that of the URI.
        suffixes: Of files in a folder.

    Raises:
        FileNotFoundError: There is no such file, or no file matches.
    """
    names = [source] if isinstance(source, str | Path) else list(source)
    if names and filesystem is None and "://" in str(names[0]):
        filesystem, _ = pyarrow.fs.FileSystem.from_uri(str(names[0]))
        names = [pyarrow.fs.FileSystem.from_uri(str(name))[1] for name in names]
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        filesystem = None
    find = _find_locally if filesystem is None else _find_in
    paths = [path for name in names for path in find(str(name), filesystem, suffixes)]
    if not paths:
        raise FileNotFoundError(
            f"no file matches {[str(name) for name in names]}; folders are searched for {suffixes}"
        )
    return Files(filesystem, tuple(paths))


def one_schema(schemas: Iterable[tuple[str, Any]], columns: Sequence[str] | None) -> Any:
    """The schema that all files have, of the columns that are read.

    Metadata, the order of columns and whether they may be null don't count.

    Args:
        schemas: Path and schema of each file.
        columns: Names of the columns to read; None: all.

    Raises:
        ValueError: A column is missing, or is of another type than in the first file. All
            differences are listed, each with its file.
    """
    (first_path, first), *others = schemas
    names = first.names if columns is None else list(columns)
    if len(set(names)) < len(names):
        raise ValueError(f"columns are named once each, but got {names}")
    missing = [name for name in names if name not in first.names]
    if missing:
        raise ValueError(f"{first_path} has no column {missing}; it has {first.names}")
    differences = []
    for path, schema in others:
        differences += [f"{path}: {text}" for text in _differences(first, schema, names, columns)]
    if differences:
        raise ValueError(
            f"the files of a dataset have equal columns, but compared with {first_path}\n  "
            + "\n  ".join(differences)
        )
    return pa.schema([first.field(name) for name in names])


def _differences(first: Any, schema: Any, names: list[str], columns: Any) -> list[str]:
    found = []
    for name in names:
        expected = first.field(name).type
        if name not in schema.names:
            found.append(f"column {name!r} ({expected}) is missing")
        elif not schema.field(name).type.equals(expected):
            found.append(f"column {name!r} is {schema.field(name).type} instead of {expected}")
    if columns is None:
        found += [f"has a column {name!r} more" for name in schema.names if name not in names]
    return found


def _find_locally(name: str, _: Any, suffixes: tuple[str, ...]) -> list[str]:
    path = Path(name).expanduser()
    if path.is_dir():
        found = (each for each in path.rglob("*") if each.is_file())
        return sorted(str(each) for each in found if _belongs(each.relative_to(path), suffixes))
    if path.exists() or WILDCARDS.isdisjoint(name):
        return [str(path)]
    fitting = glob.glob(str(path), recursive=True)  # noqa: PTH207  (Path.glob wants a folder)
    return sorted(each for each in fitting if Path(each).is_file())


def _find_in(name: str, filesystem: Any, suffixes: tuple[str, ...]) -> list[str]:
    kinds = pyarrow.fs.FileType
    kind = filesystem.get_file_info(name).type
    if kind == kinds.Directory:
        found = _files_below(filesystem, name)
        inner = (PurePosixPath(path).relative_to(PurePosixPath(name)) for path in found)
        return sorted(
            path for path, part in zip(found, inner, strict=True) if _belongs(part, suffixes)
        )
    if kind == kinds.File or WILDCARDS.isdisjoint(name):
        return [name]
    parts = name.split("/")
    plain = next(i for i, part in enumerate(parts) if not WILDCARDS.isdisjoint(part))
    found = _files_below(filesystem, "/".join(parts[:plain]))
    return sorted(path for path in found if _fits(path, name))


def _files_below(filesystem: Any, folder: str) -> list[str]:
    selector = pyarrow.fs.FileSelector(folder, recursive=True)
    infos = filesystem.get_file_info(selector)
    return [info.path for info in infos if info.type == pyarrow.fs.FileType.File]


def _fits(path: str, pattern: str) -> bool:
    """As on a local disk, ``*`` stays within a folder and ``**`` does not."""
    if "**" in pattern:
        return fnmatch.fnmatchcase(path, pattern)
    parts, patterns = path.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _belongs(path: PurePosixPath | Path, suffixes: tuple[str, ...]) -> bool:
    return path.suffix in suffixes and not any(part.startswith((".", "_")) for part in path.parts)
