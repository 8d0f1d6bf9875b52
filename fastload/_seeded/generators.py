"""The global random generators, behind one interface: seed, compare, save and restore.

Runs in: consumer and worker.

Setting a Mersenne twister takes longer than loading a tiny sample, so a generator is set only where
it is drawn from. Whether it was is seen by comparing its state, which is read in place where that
can be done: NumPy's ``get_state`` takes 23 µs, a look at its memory 0.1 µs.
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from typing import Any, Final, Protocol

import numpy as np
import torch

PYTHON, NUMPY, TORCH = range(3)
"""Numbers of the global generators, by which their seeds differ."""


class GlobalGenerator(Protocol):
    """One of the program's global generators."""

    number: int

    def seed(self, seed: int) -> None:
        """Set the state that follows from a 32-bit seed; cached normal variates are cleared."""

    def look(self) -> object:
        """A value that is equal to an earlier one if and only if nothing was drawn in between.

        If a normal variate was cached at the earlier look, drawing that alone goes unseen.
        """

    def save(self) -> Any:
        """The whole state, cached normal variates included."""

    def restore(self, state: Any) -> None:
        """Put a saved state back."""

    def has_cached_normal(self, state: Any) -> bool:
        """Whether a saved state holds a normal variate that may be drawn without another look."""


class PythonGenerator:
    """The functions of the module ``random``."""

    number = PYTHON

    def seed(self, seed: int) -> None:
        random.seed(seed)

    def look(self) -> object:
        if _PYTHON_STATE_AT is None:
            return random.getstate()
        return ctypes.string_at(_PYTHON_STATE_AT, _MT19937_BYTES)

    def save(self) -> Any:
        return random.getstate()

    def restore(self, state: Any) -> None:
        random.setstate(state)

    def has_cached_normal(self, state: Any) -> bool:
        return state[2] is not None


class NumpyGenerator:
    """The functions of ``numpy.random`` that share one ``RandomState``."""

    number = NUMPY

    def seed(self, seed: int) -> None:
        np.random.seed(seed)

    def look(self) -> object:
        bits: Any = np.random.mtrand.get_bit_generator()  # a program may replace it at any time
        if type(bits) is not np.random.MT19937:
            return repr(bits.state)
        return ctypes.string_at(bits.ctypes.state_address, _MT19937_BYTES)

    def save(self) -> Any:
        return np.random.get_state(legacy=False)

    def restore(self, state: Any) -> None:
        np.random.set_state(state)

    def has_cached_normal(self, state: Any) -> bool:
        return bool(state["has_gauss"])


class TorchGenerator:
    """torch's default generator of the CPU."""

    number = TORCH

    def seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    def look(self) -> object:
        return torch.default_generator.get_state().numpy().tobytes()

    def save(self) -> Any:
        return torch.default_generator.get_state()

    def restore(self, state: Any) -> None:
        torch.default_generator.set_state(state)

    def has_cached_normal(self, state: Any) -> bool:  # noqa: ARG002  (its words say so)
        return False


_MT19937_BYTES: Final = 625 * 4
"""A Mersenne twister's state in NumPy and in CPython: 624 words and the position among them."""


def _find_python_state() -> int | None:
    """The address of the state of ``random``'s functions; None where it is not found for certain.

    CPython keeps the position and the words behind the object's header. What is read there is
    compared with ``getstate``, so another layout in another version of Python only costs time.
    """
    hidden: Any = getattr(random, "_inst", None)
    header_bytes = object.__basicsize__
    if (
        sys.implementation.name != "cpython"
        or type(hidden) is not random.Random
        or type(hidden).__basicsize__ < header_bytes + _MT19937_BYTES
    ):
        return None
    *words, position = random.getstate()[1]
    read = struct.unpack("625I", ctypes.string_at(id(hidden) + header_bytes, _MT19937_BYTES))
    return id(hidden) + header_bytes if read == (position, *words) else None


_PYTHON_STATE_AT: Final = _find_python_state()

GLOBAL: Final[tuple[GlobalGenerator, ...]] = (
    PythonGenerator(),
    NumpyGenerator(),
    TorchGenerator(),
)
