"""Pad the fields of dicts, each in its own way, into one flat dict.

Runs in: worker (consumer with ``num_workers=0``).
Takes: samples that are dicts of sequences and other things.
Gives: a dict with a tensor for each field, and lengths or masks under names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastload._memory.write import Place
from fastload.collate.padding import Masked, Pad, Padded
from fastload.collate.placed import PlacedCollate, function_of
from fastload.collate.ragged_rows import refuse_unless
from fastload.collate.sequences import Column, is_sequence
from fastload.collate.walk import (
    checked,
    collate_nested,
    collate_plain,
    columns_of,
    known_fields,
    misfits_explained,
    sequences_only,
)
from fastload.errors import CollateError


@dataclass(frozen=True)
class PadDict(PlacedCollate):
    """Holds the settings of ``fastload.pad_dict``; called with samples, it pads their fields.

    Example:
        >>> from fastload import Pad, PadDict
        >>> collate = PadDict({"labels": Pad(value=-100, returns="data")})
        >>> batch = collate([{"ids": [1, 2], "labels": [1, 2]}, {"ids": [3], "labels": [3]}])
        >>> batch["labels"].tolist(), batch["ids_lengths"].tolist()
        ([[1, 2], [3, -100]], [2, 1])

    Arguments, results and errors are those of ``fastload.pad_dict``.
    """

    fields: Mapping[str, Pad] = field(default_factory=dict)
    default: Pad | None = field(default_factory=Pad)
    lengths: str = "{}_lengths"
    mask: str = "{}_mask"

    def __post_init__(self) -> None:
        is_mapping = isinstance(self.fields, Mapping)
        settings = [*self.fields.values()] if is_mapping else []
        settings += [] if self.default is None else [self.default]
        refuse_unless(
            is_mapping and all(isinstance(each, Pad) for each in settings),
            "fields maps names to fastload.Pad(...), and default is one or None",
        )
        refuse_unless(
            all(each.fields is None for each in settings),
            "Pad(fields=...) inside pad_dict: name the fields as keys instead",
        )
        for name, template in (("lengths", self.lengths), ("mask", self.mask)):
            try:
                template.format("field")
            except (AttributeError, IndexError, KeyError, ValueError):
                raise ValueError(
                    f"{name} is a name, in which {{}} stands for the field's, not {template!r}"
                ) from None

    def collate(self, samples: Sequence[Any], place: Place) -> Any:
        """Collate into ``place``."""
        samples = checked(samples)
        with misfits_explained(samples):
            if not isinstance(samples[0], Mapping):
                raise CollateError(
                    f"pad_dict takes dicts, but the sample at position 0 of the batch is a "
                    f"{type(samples[0]).__name__}. Use collate_fn=fastload.pad",
                    0,
                )
            columns = columns_of(samples)
            known_fields(self.fields, columns)
            batch: dict[Any, Any] = {}
            for key, column in columns.items():
                for name, part in self._parts(key, column, place).items():
                    if name in batch or (name != key and name in columns):
                        raise CollateError(
                            f"two fields of the batch would be named {name!r}: set lengths= or "
                            f'mask= to other names, such as lengths="{{}}_length"'
                        )
                    batch[name] = part
            return batch

    def _parts(self, key: Any, column: Column, place: Place) -> dict[Any, Any]:
        """Return what a field becomes: itself, with lengths or mask if it was padded."""
        settings = self.fields.get(key, self.default)
        if settings is None:
            return {key: collate_plain(column, place, key)}
        if key in self.fields:
            sequences_only(column, settings.dims)
        elif not is_sequence(column, settings.dims):
            nested = collate_nested(
                column, place, settings.column, settings.dims, path=f"[{key!r}]"
            )
            return {key: nested}
        padded = settings.column(column, place)
        if isinstance(padded, Padded):
            return {key: padded.data, self.lengths.format(key): padded.lengths}
        if isinstance(padded, Masked):
            return {key: padded.data, self.mask.format(key): padded.mask}
        return {key: padded}


@function_of(PadDict)
def pad_dict(
    samples: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Pad] | None = None,
    *,
    default: Pad | None = Pad(),  # noqa: B008  (immutable)
    lengths: str = "{}_lengths",
    mask: str = "{}_mask",
) -> dict[str, Any]:
    """Pad dicts: ``DataLoader(..., collate_fn=fastload.pad_dict)``.

    Tensors and arrays with at least one dimension and lists of numbers are sequences and padded;
    other fields are collated by ``default_collate``; lists of strings stay lists.

    With settings: ``functools.partial(fastload.pad_dict, fields={...})`` or
    ``fastload.PadDict({...})``.

    Args:
        samples: The samples of a batch: dicts with the same keys.
        fields: How to pad, by field: ``{"labels": fastload.Pad(value=-100)}``.
        default: How to pad sequences under other keys; None: they are stacked, not padded.
        lengths: Name of the field with the lengths; ``{}`` is the padded field's name.
        mask: The same for masks, of fields with ``Pad(returns="mask")``. Without ``{}`` the name
            is fixed: ``mask="attention_mask"``.

    Returns:
        A dict in the samples' order: each sequence ``(batch, longest, *feature)``, followed by
        its lengths ``(batch,)`` or mask ``(batch, longest)`` unless ``returns="data"``.

    Raises:
        CollateError: As ``fastload.pad``, or samples have different keys, or two fields of the
            batch would have one name.
        ValueError: Wrong settings.

    Example:
        >>> import fastload
        >>> batch = fastload.pad_dict([{"ids": [5, 6], "text": "a"}, {"ids": [7], "text": "b"}])
        >>> batch["ids"].tolist(), batch["ids_lengths"].tolist(), batch["text"]
        ([[5, 6], [7, 0]], [2, 1], ['a', 'b'])
    """
    settings = PadDict({} if fields is None else fields, default, lengths, mask)
    return dict(settings(samples))
