"""Find the random generators that a dataset, a collate function or a sampler owns.

Runs in: consumer and worker.
Takes: any object of the user's.
Gives: its generators, each with the path at which it was found, which numbers it.

The walk goes through attributes, slots, lists, tuples, dicts, partial functions and the objects of
bound methods, the nearest first. It stops at depth 8, after 1,000 items of a container and after
100,000 objects in all, so that a list of a million samples costs nothing, nor do samples that are
lists of numbers; what lies deeper is not found.
"""

from __future__ import annotations

import functools
import pickle
import random
import types
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import torch

from fastload._seeded.seeds import number_of
from fastload._system.interruptions import own_suppressed

DEEPEST: Final = 8
MOST_ITEMS: Final = 1000
MOST_OBJECTS: Final = 100_000

WITHOUT_PARTS: Final = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, memoryview, range, slice),
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType),
    *(torch.UntypedStorage, np.ndarray, np.generic, np.dtype, torch.dtype),
)
"""Classes of objects that own nothing."""

_WITHOUT_GENERATORS: Final = (*WITHOUT_PARTS, torch.Tensor)

_PLAIN: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
"""Types of which lists are long: their items are passed over without being looked at one by one."""

_WITHOUT_ATTRIBUTES: Final = frozenset({list, tuple, dict})

_GENERATORS: Final = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


@dataclass(frozen=True)
class OwnedGenerator:
    """A generator and the path at which it was found, such as ``dataset.transform.rng``."""

    path: str
    generator: Any

    @property
    def number(self) -> int:
        """The generator's number among those that get seeds; see ``EpochDraws.seed_of``."""
        return number_of(self.path)

    def seed(self, seed: int) -> None:
        """Set the state that follows from a 32-bit seed."""
        generator = self.generator
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        elif isinstance(generator, random.Random) or _is_twister(generator):
            generator.seed(seed)
        else:  # a bit generator of any kind is set to what a new one of that seed begins with
            bits = _bits_of(generator)
            bits.state = type(bits)(seed).state

    def save(self) -> Any:
        """The whole state."""
        generator = self.generator
        if isinstance(generator, torch.Generator):
            return generator.get_state()
        if isinstance(generator, random.Random):
            return generator.getstate()
        if isinstance(generator, np.random.RandomState):
            return generator.get_state(legacy=False)
        return _bits_of(generator).state

    def restore(self, state: Any) -> None:
        """Put a saved state back."""
        generator = self.generator
        if isinstance(generator, torch.Generator):
            generator.set_state(state)
        elif isinstance(generator, random.Random):
            generator.setstate(state)
        elif isinstance(generator, np.random.RandomState):
            generator.set_state(state)
        else:
            _bits_of(generator).state = state


def comparable(state: Any) -> bytes:
    """Bytes that are equal where the states of a generator are; a pickled tensor's are not."""
    return state.numpy().tobytes() if isinstance(state, torch.Tensor) else pickle.dumps(state)


def find_generators(root: Any, name: str) -> list[OwnedGenerator]:
    """The generators that an object owns, in a fixed order; each once, at its first path.

    Args:
        root: A dataset, collate function or sampler.
        name: What the paths begin with.
    """
    found = walk(root, name, passed_over=_WITHOUT_GENERATORS, wanted=_GENERATORS)
    return [OwnedGenerator(path, each) for path, each in found if _is_generator(each)]


def walk(
    root: Any, name: str, *, passed_over: tuple[type, ...], wanted: tuple[type, ...]
) -> Iterator[tuple[str, Any]]:
    """Objects of some classes that an object owns, with their paths; each once, outermost first.

    Args:
        root: A dataset, collate function or sampler.
        name: What the paths begin with.
        passed_over: Classes of objects that are not looked into.
        wanted: Classes of objects to be found; they are not looked into either.
    """
    seen: set[int] = set()
    level: list[tuple[str, Any]] = [(name, root)]
    for _ in range(DEEPEST + 1):
        inner: list[tuple[str, Any]] = []
        for path, each in level:
            if len(seen) >= MOST_OBJECTS:
                break
            if isinstance(each, passed_over) or id(each) in seen:
                continue
            seen.add(id(each))
            if isinstance(each, wanted):
                yield path, each
            else:
                inner += islice(_parts(path, each), MOST_OBJECTS - len(inner))
        level = inner


def _is_generator(each: Any) -> bool:
    programs = (torch.default_generator, np.random.mtrand._rand, getattr(random, "_inst", None))
    if any(each is one for one in programs) or isinstance(each, random.SystemRandom):
        return False  # the global ones are set anyway; SystemRandom has no state
    if isinstance(each, torch.Generator):
        return bool(each.device.type == "cpu")  # those of accelerators are not touched
    return isinstance(each, _GENERATORS)


def _parts(path: str, each: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(each, dict):
        for key, value in _items(each):
            if type(value) not in _PLAIN:
                yield f"{path}[{key!r:.80}]", value
    elif isinstance(each, list | tuple):
        values = tuple(islice(tuple(each[:MOST_ITEMS]), MOST_ITEMS))
        if not _PLAIN.issuperset(map(type, values)):
            yield from ((f"{path}[{at}]", value) for at, value in enumerate(values))
    if type(each) in _WITHOUT_ATTRIBUTES:
        return
    if isinstance(each, functools.partial):
        yield from ((f"{path}.func", each.func), (f"{path}.args", each.args))
        yield f"{path}.keywords", each.keywords
    elif isinstance(each, types.MethodType):
        yield f"{path}.__self__", each.__self__
    yield from ((f"{path}.{key}", value) for key, value in _attributes(each))


def _items(each: dict[Any, Any]) -> list[tuple[Any, Any]]:
    return list(islice(dict.items(each), MOST_ITEMS))


def _attributes(each: Any) -> list[tuple[str, Any]]:
    """Attributes of the instance and its slots, by name; no descriptor of the user's is called."""
    found: dict[str, Any] = {}
    with own_suppressed(AttributeError):
        found.update(islice(object.__getattribute__(each, "__dict__").items(), MOST_ITEMS))
    for kind in type(each).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    found[name] = slot.__get__(each)
                except AttributeError:  # the slot is empty
                    continue
    return sorted((item for item in found.items() if isinstance(item[0], str)), key=_name)


def _name(item: tuple[str, Any]) -> str:
    return item[0]


def _is_twister(generator: Any) -> bool:
    if not isinstance(generator, np.random.RandomState):
        return False
    return type(_bits_of(generator)) is np.random.MT19937


def _bits_of(generator: Any) -> Any:
    if isinstance(generator, np.random.RandomState):
        return generator._bit_generator
    return generator.bit_generator
