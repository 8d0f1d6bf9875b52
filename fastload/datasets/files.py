"""Find the files of a dataset, and compare their schemas.

Runs in: the process that makes the dataset.
Takes: what the user named: paths, globs, folders, on a local disk or in a file system of pyarrow's
or fsspec's.
Gives: a list of paths in a fixed order, and one schema for all of them.
"""

from __future__ import annotations

import fnmatch
import glob
import importlib.util
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs

from fastload.datasets.partitions import Partitions, find_partitions

WILDCARDS = frozenset("*?[")

_READERS = {
    **dict.fromkeys((".parquet", ".pq", ".parq"), "a Parquet file; use ParquetDataset"),
    **dict.fromkeys((".arrow", ".feather", ".ipc", ".arrows"), "an Arrow file; use ArrowDataset"),
}
_UNSUPPORTED = {
    **dict.fromkeys((".csv", ".tsv"), "CSV"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "JSON"),
    ".orc": "ORC",
    ".avro": "Avro",
}


class Files(NamedTuple):
    """The files of a dataset, and where they are.

    Attributes:
        filesystem: A ``pyarrow.fs.FileSystem``; None: the local disk.
        paths: The paths in it, in a fixed order.
        partitions: The columns that the paths say.
    """

    filesystem: Any
    paths: tuple[str, ...]
    partitions: Partitions = Partitions()

    def open(self, path: str) -> Any:
        """Open a file as a ``pyarrow.NativeFile``; a local one is mapped.

        Raises:
            OSError: It can't be opened.
        """
        if self.filesystem is None:
            return pa.memory_map(path)
        return _usable_here(self.filesystem).open_input_file(path)


def find_files(source: Any, filesystem: Any, suffixes: tuple[str, ...]) -> Files:
    """Look up what the user named.

    Args:
        source: A path, a glob pattern, a folder (all files below it with one of the suffixes, but
            none whose name begins with ``.`` or ``_``), a URI such as ``s3://…``, or an iterable of
            such. Files from a pattern or a folder are sorted by path.
        filesystem: A file system of pyarrow's or fsspec's; None: the local disk, or that of the
            URI.
        suffixes: What names of files in a folder must end with.

    Raises:
        FileNotFoundError: There is no such file, or no file matches.
        TypeError: What the user named is no path, or ``filesystem`` is no file system.
        ValueError: A file is of a format that another class reads, or none does.
    """
    names = _names(source)
    if names and filesystem is None and "://" in names[0]:
        filesystem, _ = _of_uri(names[0])
        names = [_of_uri(name)[1] for name in names]
    filesystem = _of_pyarrow(filesystem)
    find = _find_locally if filesystem is None else _find_in
    found = [pair for name in names for pair in find(name, filesystem, suffixes)]
    if not found:
        raise FileNotFoundError(f"no file matches {names}; folders are searched for {suffixes}")
    for path, _ in found:
        _refuse_other_format(path, suffixes)
    return Files(filesystem, tuple(path for path, _ in found), find_partitions(found))


def _names(source: Any) -> list[str]:
    if isinstance(source, str | os.PathLike):
        return [os.fspath(source)]
    if not isinstance(source, Iterable) or isinstance(source, Mapping):
        raise TypeError(
            f"expected a path, or an iterable of paths, but got a {type(source).__name__}; "
            f"ArrowDataset takes what pyarrow.table() makes of it"
        )
    names = list(source)
    for name in names:
        if not isinstance(name, str | os.PathLike):
            raise TypeError(f"expected paths, but got {name!r}, a {type(name).__name__}")
    return [os.fspath(name) for name in names]


def _of_uri(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI, pyarrow's or else fsspec's, and the path in it."""
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if importlib.util.find_spec("fsspec") is None:
            raise
        filesystem, path = importlib.import_module("fsspec").url_to_fs(uri)
    return filesystem, path


def _of_pyarrow(filesystem: Any) -> Any:
    """Return a file system as pyarrow's; None stands for the local disk."""
    if filesystem is None or isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        return None
    if isinstance(filesystem, pyarrow.fs.FileSystem):
        return filesystem
    if not all(hasattr(filesystem, name) for name in ("protocol", "info", "find", "open")):
        raise TypeError(
            f"filesystem is a pyarrow.fs.FileSystem or one of fsspec's, but got a "
            f"{type(filesystem).__name__}"
        )
    protocol = filesystem.protocol
    is_local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)
    return None if is_local else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))


def _usable_here(filesystem: Any) -> Any:
    """Return a file system that works in this process; after a fork, fsspec's must be made anew."""
    inner = getattr(getattr(filesystem, "handler", None), "fs", None)
    if getattr(inner, "_pid", None) in {None, os.getpid()}:
        return filesystem
    anew = pickle.loads(pickle.dumps(inner))
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(anew))


def _refuse_other_format(path: str, suffixes: tuple[str, ...]) -> None:
    """Raise an error for a file that, by its name, another class reads, or none does yet."""
    name = PurePosixPath(path.lower())
    suffix = name.suffix
    if suffix in {".gz", ".bz2", ".xz", ".zst", ".zip"}:
        suffix = PurePosixPath(name.stem).suffix
    if suffix in _UNSUPPORTED:
        kind = _UNSUPPORTED[suffix]
        raise ValueError(
            f"{path}: {kind} files are not supported yet. Read it with pyarrow (pyarrow.csv, "
            f"pyarrow.json, pyarrow.orc) or another library and pass the table to ArrowDataset, or "
            f"write it once with fastload.datasets.write_parquet"
        )
    if suffix in _READERS and suffix not in suffixes:
        raise ValueError(f"{path} is {_READERS[suffix]}")


def one_schema(schemas: Iterable[tuple[str, Any]], columns: Sequence[str] | None) -> Any:
    """Return the schema that all files have, of the columns that are read.

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


Found = list[tuple[str, str]]
"""Lists paths, each with the beginning of it below which folders may say columns."""


def _find_locally(name: str, _: Any, suffixes: tuple[str, ...]) -> Found:
    path = Path(name).expanduser()
    if path.is_dir():
        found = (each for each in path.rglob("*") if each.is_file())
        paths = sorted(str(each) for each in found if _belongs(each.relative_to(path), suffixes))
        return [(each, str(path)) for each in paths]
    if path.exists() or WILDCARDS.isdisjoint(name):
        return [(str(path), str(path.parent))]
    fitting = glob.glob(str(path), recursive=True)  # noqa: PTH207  (Path.glob wants a folder)
    base = _without_wildcards(str(path))
    return [(each, base) for each in sorted(fitting) if Path(each).is_file()]


def _find_in(name: str, filesystem: Any, suffixes: tuple[str, ...]) -> Found:
    kinds = pyarrow.fs.FileType
    kind = filesystem.get_file_info(name).type
    if kind == kinds.Directory:
        found = _files_below(filesystem, name)
        inner = (PurePosixPath(path).relative_to(PurePosixPath(name)) for path in found)
        paths = [path for path, part in zip(found, inner, strict=True) if _belongs(part, suffixes)]
        return [(path, name) for path in sorted(paths)]
    if kind == kinds.File or WILDCARDS.isdisjoint(name):
        return [(name, str(PurePosixPath(name).parent))]
    base = _without_wildcards(name)
    found = _files_below(filesystem, base)
    return [(path, base) for path in sorted(found) if _fits(path, name)]


def _without_wildcards(pattern: str) -> str:
    """Return the folders of a pattern before the first one with a wildcard."""
    parts = pattern.split("/")
    plain = next(i for i, part in enumerate(parts) if not WILDCARDS.isdisjoint(part))
    return "/".join(parts[:plain]) or ("/" if pattern.startswith("/") else "")


def _files_below(filesystem: Any, folder: str) -> list[str]:
    selector = pyarrow.fs.FileSelector(folder, recursive=True)
    infos = filesystem.get_file_info(selector)
    return [info.path for info in infos if info.type == pyarrow.fs.FileType.File]


def _fits(path: str, pattern: str) -> bool:
    """Match as on a local disk, where ``*`` stays within a folder and ``**`` does not."""
    if "**" in pattern:
        return fnmatch.fnmatchcase(path, pattern)
    parts, patterns = path.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _belongs(path: PurePosixPath | Path, suffixes: tuple[str, ...]) -> bool:
    return path.suffix in suffixes and not any(part.startswith((".", "_")) for part in path.parts)
