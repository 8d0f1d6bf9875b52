"""Say which Arrow types can be read, what they are converted to before, and what they become.

Runs in: the process that makes the dataset, and its workers.
Takes: Arrow types and arrays.
Gives: a type that can be read, or an error when the dataset is opened; converted arrays.

Values are those of ``to_pylist``. What a column becomes depends on its type alone, never on the
rows that happen to be in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastload._memory.layout import Shape

Decimals = Literal["error", "float64"]

_TEXT: tuple[Callable[[Any], bool], ...] = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
    pa.types.is_fixed_size_binary,
)
_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
_DECIMALS = (
    *(pa.types.is_decimal32, pa.types.is_decimal64),
    *(pa.types.is_decimal128, pa.types.is_decimal256),
)


def is_text(kind: Any) -> bool:
    """Return whether rows of a type are strings or bytes."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in _TEXT)


def is_decimal(kind: Any) -> bool:
    """Return whether rows of a type are decimal numbers, of any width."""
    return any(test(kind) for test in _DECIMALS)


def is_list_view(kind: Any) -> bool:
    """Return whether rows of a type are lists that may lie in any order."""
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def fixed(kind: Any) -> tuple[np.dtype[Any], Shape] | None:
    """Return dtype and shape of rows that are all of one size in memory; None for other types."""
    shape: Shape = ()
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation not in (None, list(range(len(kind.shape)))):
            return None
        inner = fixed(kind.value_type)
        return None if inner is None else (inner[0], (*kind.shape, *inner[1]))
    while pa.types.is_fixed_size_list(kind):
        shape, kind = (*shape, kind.list_size), kind.value_type
    if pa.types.is_temporal(kind):
        if pa.types.is_interval(kind):
            return None
        return np.dtype(f"int{kind.bit_width}"), shape
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return (np.dtype(kind.to_pandas_dtype()), shape) if is_number else None


def ragged(kind: Any) -> tuple[np.dtype[Any], Shape] | None:
    """Return dtype and shape of the elements of lists of any length; None for other types."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return fixed(kind.value_type) if is_list else None


def readable(kind: Any, decimals: Decimals = "error") -> Any:
    """Return the type to which a column is converted before it is read; often it is the same."""
    if isinstance(kind, pa.BaseExtensionType):
        return _of_extension(kind, decimals)
    if pa.types.is_run_end_encoded(kind):
        return readable(kind.value_type, decimals)
    if pa.types.is_dictionary(kind):
        value = readable(kind.value_type, decimals)
        return pa.dictionary(kind.index_type, value, kind.ordered) if is_text(value) else value
    if pa.types.is_struct(kind):
        return pa.struct([each.with_type(readable(each.type, decimals)) for each in kind])
    if is_list_view(kind):
        return pa.large_list(kind.value_field.with_type(_inside(kind.value_type, decimals)))
    return _inside(kind, decimals)


def _of_extension(kind: Any, decimals: Decimals) -> Any:
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if isinstance(kind, pa.FixedShapeTensorType | pa.UuidType):
        return kind
    scalar = getattr(type(kind), "__arrow_ext_scalar_class__", None)
    plain = getattr(pa.ExtensionType, "__arrow_ext_scalar_class__", None)
    if isinstance(kind, pa.ExtensionType) and scalar is not plain:
        return kind  # its rows are objects of a class of its own
    return readable(kind.storage_type, decimals)


def _inside(kind: Any, decimals: Decimals) -> Any:
    """Do as ``readable`` for what a cast alone converts: strings and decimals inside of lists."""
    if pa.types.is_map(kind):
        key, item = (_inside(each, decimals) for each in (kind.key_type, kind.item_type))
        is_same = key == kind.key_type and item == kind.item_type
        return kind if is_same else pa.map_(key, item, keys_sorted=kind.keys_sorted)
    if not _is_list(kind):
        is_float = is_decimal(kind) and decimals == "float64"
        return pa.float64() if is_float else _VIEWS.get(kind, kind)
    value = _inside(kind.value_type, decimals)
    if value == kind.value_type:
        return kind
    field = kind.value_field.with_type(value)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(field, kind.list_size)
    return pa.large_list(field) if pa.types.is_large_list(kind) else pa.list_(field)


def _is_list(kind: Any) -> bool:
    tests = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(test(kind) for test in tests)


def convert(array: Any, kind: Any) -> Any:
    """Convert an array, or all chunks of one, to the type that ``readable`` gave for its type."""
    if array.type == kind:
        return array
    if isinstance(array, pa.ChunkedArray):
        return pa.chunked_array([convert(chunk, kind) for chunk in array.chunks], kind)
    for is_of, change in _CONVERSIONS:
        if is_of(array.type):
            return change(array, kind)
    return array.cast(kind)


def _storage(array: Any, kind: Any) -> Any:
    if isinstance(array.type, pa.Bool8Type):
        return pc.not_equal(array.storage, 0)
    return convert(array.storage, kind)


def _without_runs(array: Any, kind: Any) -> Any:
    values = convert(array.values, kind)
    if pa.types.is_dictionary(kind):
        ends = array.run_ends.to_numpy()
        rows = np.searchsorted(ends, np.arange(array.offset, array.offset + len(array)), "right")
        return values.take(pa.array(rows))
    runs = pa.RunEndEncodedArray.from_arrays(array.run_ends, values)
    return pc.run_end_decode(runs.slice(array.offset, len(array)))


def _without_dictionary(array: Any, kind: Any) -> Any:
    if pa.types.is_dictionary(kind):
        values = convert(array.dictionary, kind.value_type)
        return pa.DictionaryArray.from_arrays(array.indices, values, ordered=kind.ordered)
    return convert(array.dictionary, kind).take(array.indices)


def _fields(array: Any, kind: Any) -> Any:
    fields = [convert(array.field(number), field.type) for number, field in enumerate(kind)]
    return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())


def _in_order(array: Any, kind: Any) -> Any:
    """Convert lists that lie in any order to lists one after another."""
    lengths = pc.fill_null(array.value_lengths(), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], lengths.cumsum(dtype=np.int64)))
    values = convert(array.flatten(), kind.value_type)
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), values, type=kind, mask=array.is_null()
    )


_CONVERSIONS: tuple[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]], ...] = (
    (lambda kind: isinstance(kind, pa.BaseExtensionType), _storage),
    (pa.types.is_run_end_encoded, _without_runs),
    (pa.types.is_dictionary, _without_dictionary),
    (pa.types.is_struct, _fields),
    (is_list_view, _in_order),
)


def take(array: Any, rows: Any) -> Any:
    """Return rows of an array or of chunks; pyarrow itself can't take rows of every type."""
    try:
        return array.take(rows)
    except pa.ArrowNotImplementedError:
        pieces = [array.slice(row, 1) for row in rows.to_pylist()]
        chunks = [
            chunk for each in pieces for chunk in getattr(each, "chunks", [each]) if len(chunk)
        ]
        return pa.concat_arrays(chunks) if chunks else array.slice(0, 0)


def refuse_unreadable(schema: Any, decimals: Decimals, allows_null: Callable[[str], bool]) -> None:
    """Refuse columns that can't be read, before anything is read.

    Args:
        schema: The schema of the files.
        decimals: What shall become of decimal numbers.
        allows_null: Whether nulls of a column of this name are no error.

    Raises:
        ValueError: There are some; the message names each with its type and what to do.
    """
    if decimals not in {"error", "float64"}:
        raise ValueError(f"decimals is 'error' or 'float64', but got {decimals!r}")
    found = []
    for field in schema:
        kind = readable(field.type, decimals)
        reason = next(_reasons(kind), None)
        if reason is None and pa.types.is_null(kind) and not allows_null(field.name):
            reason = f"it has no values; pass nulls='mask', or fill={{{field.name!r}: value}}"
        if reason is not None:
            found.append(f"column {field.name!r} of type {field.type} can't be read: {reason}")
    if found:
        text = "\n".join(found)
        raise ValueError(f"{text}\nTo read the others, name them in columns=")


def _reasons(kind: Any, *, is_object: bool = False) -> Iterator[str]:
    """Yield why a type can't be read; ``is_object`` says that its values become Python objects."""
    if is_decimal(kind):
        yield (
            "a tensor has no decimal numbers; pass decimals='float64' to get the nearest floats, "
            "or cast it when the file is written"
        )
    if isinstance(kind, pa.FixedShapeTensorType) and fixed(kind) is None:
        yield "its tensors are permuted or of no numeric type; cast it to its storage type"
    if pa.types.is_interval(kind) and kind != pa.month_day_nano_interval():
        yield "pyarrow has no values of it; cast it to month_day_nano_interval"
    if is_object and pa.types.is_temporal(kind) and getattr(kind, "unit", None) == "ns":
        yield (
            "Python's own times have no nanoseconds, and inside of this type they are Python "
            "objects; cast them to microseconds"
        )
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        if len(set(names)) < len(names):
            yield f"its fields are not named once each: {names}"
    if fixed(kind) is None and ragged(kind) is None:
        for inner in _within(kind):
            yield from _reasons(inner, is_object=is_object or not pa.types.is_struct(kind))


def _within(kind: Any) -> list[Any]:
    """Return the types inside of a type."""
    if isinstance(kind, pa.BaseExtensionType):
        return [kind.storage_type]
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return [kind.value_type]
    return [kind.field(number).type for number in range(kind.num_fields)]


def null_within(array: Any) -> int | None:
    """Return the first row of tensors or lists of numbers with a null inside, or None."""
    if ragged(array.type) is None and fixed(array.type) is None:
        return None
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if not _is_list(array.type):
        return None
    inner = array.flatten()
    if not inner.null_count and null_within(inner) is None:
        return None
    for row, values in enumerate(array):
        flat = values.values
        if flat is not None and (flat.null_count or null_within(flat) is not None):
            return row
    return None
