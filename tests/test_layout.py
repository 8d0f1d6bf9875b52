"""Which folder of the package may import which, and that no name is used for two things."""

from __future__ import annotations

import ast
import graphlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import fastload

PACKAGE = Path(fastload.__file__).parent

LAYERS = (
    ("_system",),
    ("errors", "_torch_private"),
    ("_memory",),
    ("_wire",),
    ("collate", "samplers", "stats", "transforms"),
    ("_device",),
    ("datasets",),
    ("_loading",),
    ("_seeded",),
    ("sources",),
    ("_worker",),
    ("_pool",),
    ("_threads",),
    ("_epoch",),
    ("_autotune",),
    ("_loader_state", "_arguments", "_checks"),
    ("dataloader",),
    ("integrations",),
    ("patching",),
    ("fastload",),
    ("tools", "__main__"),
)
"""Folders, and files that lie in none, from the bottom up: each imports only what is below it."""

LAZY_EXCEPTIONS = {("fastload.dataloader", "fastload.tools.live")}
"""``DataLoader.watch`` shows the live display, and imports it when it is called."""

UPWARD = {("fastload.dataloader", "fastload.integrations.lightning")}
"""The loader asks whether Lightning calls; the rest of that folder makes loaders of its own."""

RANKS = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


class Import(NamedTuple):
    """One import of a module of the package by another."""

    importer: str
    imported: str
    name: str | None
    is_lazy: bool


def module_names() -> dict[str, Path]:
    """Every module of the package, with its file."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = module_names()


def imports_of(module: str, file: Path) -> Iterator[Import]:
    """What a module imports of the package; lazy: inside a function or for type checkers only."""
    tree = ast.parse(file.read_text())
    eager = set(map(id, _statements_at_import(tree)))
    for node in ast.walk(tree):
        is_lazy = id(node) not in eager
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in MODULES:
                    yield Import(module, alias.name, None, is_lazy)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                if (submodule := f"{node.module}.{alias.name}") in MODULES:
                    yield Import(module, submodule, None, is_lazy)
                else:
                    yield Import(module, node.module, alias.name, is_lazy)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"


def _statements_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_for_types:
            yield node
            yield from _statements_at_import(node)


IMPORTS = [found for module, file in MODULES.items() for found in imports_of(module, file)]


def room_of(module: str) -> str:
    """The folder that a module is in, or the module itself where it is in none."""
    return [*module.split("."), "fastload"][1 if "." in module else 0]


def is_core(module: str) -> bool:
    return room_of(module) not in {"tools", "__main__"}


def test_every_folder_has_its_layer() -> None:
    """A new folder is entered into the table, or the checks below would not see it."""
    assert {room_of(module) for module in MODULES} == set(RANKS)


@pytest.mark.parametrize("room", sorted(RANKS))
def test_a_folder_imports_only_those_below_it(room: str) -> None:
    """So a change can only be felt above; and only tools import tools."""
    upward = {
        (found.importer, found.imported)
        for found in IMPORTS
        if room == room_of(found.importer) != room_of(found.imported)
        if RANKS[room_of(found.imported)] >= RANKS[room]
        and not (room == "__main__" and room_of(found.imported) == "tools")
        and not (found.is_lazy and (found.importer, found.imported) in LAZY_EXCEPTIONS)
    }
    assert upward - UPWARD == set()


def test_exceptions_are_in_use() -> None:
    """An exception that is not needed any more is taken out of its list."""
    pairs = {(found.importer, found.imported) for found in IMPORTS}
    assert pairs >= LAZY_EXCEPTIONS | UPWARD


def test_names_with_an_underscore_stay_in_their_module() -> None:
    """What another module needs has a name without one."""
    assert [found for found in IMPORTS if found.name and found.name.startswith("_")] == []


def test_imports_go_in_no_circle() -> None:
    """Importing any module first works, without imports inside functions to help it."""
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in IMPORTS:
        if not found.is_lazy and found.importer != found.imported:
            graph[found.importer].add(found.imported)
    graphlib.TopologicalSorter(graph).prepare()


def test_no_two_files_of_the_core_share_a_name() -> None:
    """A file is known by its name alone."""
    names = Counter(
        file.stem for module, file in MODULES.items() if is_core(module) and file.stem != "__init__"
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_classes_of_the_core_share_a_name() -> None:
    """A class is known by its name alone."""
    classes = Counter(
        node.name
        for module, file in MODULES.items()
        if is_core(module)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in classes.items() if count > 1] == []
