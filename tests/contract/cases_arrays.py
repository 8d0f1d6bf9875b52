"""NumPy arrays and scalars that a loader has to carry: name → function that makes the sample."""

from collections.abc import Callable
from typing import Any

import numpy as np

_NUMBERS = "?bBhHiIlLqQefdgFDG"
_RECORD = np.dtype([("x", "<i4"), ("name", "S5"), ("at", "<M8[s]"), ("w", "<f8", (2,))])


def _numbers(code: str) -> np.ndarray:
    return np.arange(6).astype(code)


def _of_each_dtype() -> dict[str, Callable[[], Any]]:
    made: dict[str, Callable[[], Any]] = {}
    for code in _NUMBERS:
        name = np.dtype(code).name + f" ({code})"
        made[name] = lambda code=code: _numbers(code)  # type: ignore[misc]
        made[f"{name}, 0-d"] = lambda code=code: _numbers(code)[3:4].reshape(())  # type: ignore[misc]
        if code not in "qQ":  # Scalars of these types change their class when pickled.
            made[f"{name}, scalar"] = lambda code=code: np.dtype(code).type(1)  # type: ignore[misc]
        made[f"{name}, empty"] = lambda code=code: _numbers(code)[:0].reshape(0, 2)  # type: ignore[misc]
    return made


def _read_only() -> np.ndarray:
    array = np.arange(6.0)
    array.flags.writeable = False
    return array


def _record() -> np.ndarray:
    return np.array([(1, b"ab", "2020-01-01", (0.5, 1)), (2, b"c", "2021-01-01", (2, 3))], _RECORD)


class Signal(np.ndarray):
    """A subclass of ndarray."""


NUMBERS = _of_each_dtype()

ARRAYS = {
    "F-order": lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "transposed": lambda: np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    "steps": lambda: np.arange(20)[1::3],
    "negative steps": lambda: np.arange(6)[::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(3.0), (2, 3)).copy(order="A"),
    "read-only broadcast": lambda: np.broadcast_to(np.arange(3.0), (2, 3)),
    "read-only": _read_only,
    "from bytes": lambda: np.frombuffer(b"12345678", np.uint16),
    "big-endian": lambda: np.arange(5, dtype=">i4"),
    "big-endian float": lambda: np.arange(5, dtype=">f8"),
    "big-endian scalar": lambda: np.dtype(">i4").type(4),
    "datetime": lambda: np.array(["2020-01-01", "NaT"], "M8[ns]"),
    "datetime scalar": lambda: np.datetime64("2020-01-01T12:00"),
    "timedelta": lambda: np.arange(3).astype("m8[h]"),
    "timedelta scalar": lambda: np.timedelta64(5, "D"),
    "str": lambda: np.array(["a", "longer", ""]),
    "str scalar": lambda: np.str_("text"),
    "bytes": lambda: np.array([b"a", b"longer"]),
    "bytes scalar": lambda: np.bytes_(b"text"),
    "void": lambda: np.zeros(3, "V7"),
    "object": lambda: np.array([1, "two", None, [3.0]], dtype=object),
    "structured": _record,
    "structured scalar": lambda: _record()[1],
    "structured with an object": lambda: np.array([(1, "a")], [("n", "i4"), ("o", "O")]),
    "structured field": lambda: _record()["x"],
    "record array": lambda: _record().view(np.recarray),
    "masked": lambda: np.ma.masked_array([1.0, 2.0, 3.0], [0, 1, 0]),  # type: ignore[arg-type]
    "matrix-like subclass": lambda: np.arange(4.0).view(Signal),
    "NaN and signed zero": lambda: np.array([np.nan, -0.0, np.inf]),
    "unaligned": lambda: np.frombuffer(b"x" + np.arange(3.0).tobytes(), np.uint8)[1:].view("<f8"),
    "many dimensions": lambda: np.arange(64).reshape([2] * 6),
    "large": lambda: np.arange(300_000),
    "array in an array": lambda: np.array([np.arange(2), np.arange(3)], dtype=object),
}
