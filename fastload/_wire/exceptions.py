"""Carry an exception from a worker to the consumer with its type and its attributes.

Runs in: worker (``pack``) and consumer (``unpack``).

Pickle carries an exception's class, arguments and attributes but not its cause, context and
traceback, and it fails on classes with their own ``__init__``; what it loses is sent beside it.
"""

from __future__ import annotations

import pickle
import traceback
import types
from typing import Any, NamedTuple

from fastload._system.interruptions import is_from_outside
from fastload.errors import WorkerError, WorkerTraceback, annotate


class _Packed(NamedTuple):
    pickled: bytes | None
    name: str
    text: str
    cause: _Packed | None
    context: _Packed | None
    suppress_context: bool
    traceback: str


def pack(error: BaseException) -> bytes:
    """Return bytes that ``unpack`` turns into the same exception.

    Raises:
        BaseException: An exception from outside that came meanwhile; nothing else.
    """
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return pickle.dumps(_pack(error, trace, LONGEST_CHAIN))
    except BaseException as raised:  # a chain too deep to format, an error that exits, ...
        if is_from_outside(raised):
            raise
        name, text = type(error).__name__, _text(error)
        return pickle.dumps(_Packed(None, name, text, None, None, False, f"{name}: {text}"))


def pack_whatever(error: BaseException) -> bytes:
    """Return bytes for an exception, or for the one from outside that keeps it from being packed.

    For a worker, where nobody is to get the exception from outside but the consumer.
    """
    try:
        return pack(error)
    except BaseException as raised:  # noqa: BLE001  (its context is the other)
        return pack(raised)


def unpack(packed: bytes | bytearray, where: str) -> BaseException:
    """Return the exception that ``pack`` took, with a note ``where`` and the worker's traceback."""
    record: _Packed = pickle.loads(packed)
    error = _unpack(record)
    if error.__cause__ is None:
        object.__setattr__(error, "__cause__", WorkerTraceback(record.traceback))
        annotate(error, where)
    else:
        annotate(error, f"{where}; the worker's traceback:\n{record.traceback}")
    return error


LONGEST_CHAIN = 20
"""So many causes of causes travel as exceptions; the worker's traceback, a text, has them all."""


def reraisable(error: BaseException) -> BaseException:
    """Return the error itself, unless raising it would be mistaken for something else.

    ``StopIteration`` would end the epoch and ``SystemExit`` the training program, silently.
    """
    if isinstance(error, Exception | KeyboardInterrupt) and not isinstance(error, StopIteration):
        return error
    wrapped: Exception
    text = f"{type(error).__name__} was raised while a batch was loaded: {_text(error)}"
    wrapped = RuntimeError(text) if isinstance(error, StopIteration) else WorkerError(text)
    wrapped.__cause__ = error
    return wrapped


def _pack(error: BaseException, trace: str, longest: int) -> _Packed:
    linked = (error.__cause__, error.__context__ if error.__cause__ is None else None)
    cause, context = (
        None if link is None or longest == 0 else _pack(link, "", longest - 1) for link in linked
    )
    return _Packed(
        _pickled(error),
        f"{type(error).__module__}.{type(error).__qualname__}",
        _text(error),
        cause,
        context,
        error.__suppress_context__,
        trace,
    )


def _pickled(error: BaseException) -> bytes | None:
    """Return the pickled exception if it is sure to unpickle to the same type, otherwise None."""
    for reduced in (error, _Remade(error, whole=True), _Remade(error, whole=False)):
        try:
            pickled = pickle.dumps(reduced)
            if type(pickle.loads(pickled)) is type(error):
                return pickled
        except BaseException as raised:  # user classes may raise anything here
            if is_from_outside(raised):
                raise
    return None


class _Remade:
    """Pickles as an exception that is made again without calling its class's ``__init__``."""

    def __init__(self, error: BaseException, *, whole: bool) -> None:
        self._error = error
        self._whole = whole

    def __reduce__(self) -> tuple[Any, ...]:
        error = self._error
        attributes = {**_members(error), **vars(error)}
        arguments: tuple[Any, ...] = error.args
        if not self._whole:
            attributes = {name: value for name, value in attributes.items() if _travels(value)}
            arguments = tuple(value if _travels(value) else repr(value) for value in arguments)
        return _remake, (type(error), arguments, attributes)


def _remake(kind: type[BaseException], arguments: tuple[Any, ...], attributes: Any) -> Any:
    error = kind.__new__(kind, *arguments)
    object.__setattr__(error, "args", arguments)  # a frozen class refuses the plain way
    for name, value in attributes.items():
        object.__setattr__(error, name, value)
    return error


def _members(error: BaseException) -> dict[str, Any]:
    """Return what an exception keeps outside of its ``__dict__``, such as ``OSError.filename``."""
    names = {
        name
        for kind in type(error).__mro__
        for name, member in vars(kind).items()
        if isinstance(member, types.MemberDescriptorType) and not name.startswith("__")
    }
    return {name: value for name in names if (value := getattr(error, name, None)) is not None}


def _travels(value: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except BaseException as raised:  # as above
        if is_from_outside(raised):
            raise
        return False
    return True


def _text(error: BaseException) -> str:
    try:
        return str.__str__(str(error))
    except BaseException as raised:  # a user's __str__
        if is_from_outside(raised):
            raise
        return "(its text could not be made)"


def _unpack(record: _Packed) -> BaseException:
    error: BaseException | None = None
    if record.pickled is not None:
        try:
            error = pickle.loads(record.pickled)
        except BaseException as raised:  # a class that exists only in the worker
            if is_from_outside(raised):
                raise
    if not isinstance(error, BaseException):
        error = WorkerError(f"{record.name}: {record.text}")
    if record.cause is not None:
        object.__setattr__(error, "__cause__", _unpack(record.cause))
    if record.context is not None:
        object.__setattr__(error, "__context__", _unpack(record.context))
    object.__setattr__(error, "__suppress_context__", record.suppress_context)
    return error
