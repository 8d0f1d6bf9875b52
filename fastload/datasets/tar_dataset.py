"""A map-style dataset on tar shards, by their indices.

Runs in: worker (consumer with ``num_workers=0``).
Takes: indices.
Gives: samples, each read from its place in its shard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from fastload.datasets.tar_batches import SampleNode, sample_node
from fastload.datasets.tar_decoding import Decoder
from fastload.datasets.tar_samples import make_form
from fastload.datasets.tar_shards import TarShards, UseIndex, Waiting


class TarDataset(Dataset[Any]):
    """The samples of tar shards in WebDataset's convention, by index.

    Shards that have an index beside them (``fastload index SHARD...``) are opened at once; of
    others the headers are read when the dataset is made. They must not be packed by gzip, which
    can't be read at any place. Samples are those of ``TarStream``, in the order of the shards.

    On a disk that reads slowly out of turn, shuffle with
    ``fastload.BlockShuffleSampler(dataset, window=...)``, or read with ``TarStream``.

    Args:
        urls: The same as for ``TarStream``.
        decode: The same as for ``TarStream``.
        fields: The same as for ``TarStream``.
        transform: The same as for ``TarStream``.
        allow_pickle: The same as for ``TarStream``.
        index: ``"auto"``: read the headers of shards that have no index; ``"require"``: it is an
            error if one has none; ``"ignore"``: read the headers of all.
        verify: The same as for ``TarStream``.

    Raises:
        FileNotFoundError: A shard is missing, or an index that is required.
        ValueError: A shard is packed by gzip, an option doesn't fit, or an index is of another
            state of its shard.
        CorruptDataError: An index, or a shard without one, is damaged; while reading: a shard is.

    Example:
        >>> import io, tarfile
        >>> with tarfile.open("/tmp/one.tar", "w") as file:
        ...     member = tarfile.TarInfo("a.txt")
        ...     member.size = 3
        ...     file.addfile(member, io.BytesIO(b"yes"))
        >>> dataset = TarDataset("/tmp/one.tar", fields=["txt"])
        >>> len(dataset), dataset[-1]
        (1, ('yes',))
    """

    def __init__(
        self,
        urls: Any,
        *,
        decode: bool | Mapping[str, Decoder] = True,
        fields: Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        allow_pickle: bool = False,
        index: UseIndex = "auto",
        verify: bool = True,
    ) -> None:
        form = make_form(decode, fields, transform, allow_pickle=allow_pickle, verify=verify)
        self.shards = TarShards(urls, form, index, is_partly_fine=True)
        packed = [
            path for number, path in enumerate(self.shards.paths) if self.shards.is_gzip(number)
        ]
        if packed:
            raise ValueError(
                f"{packed[0]} is packed by gzip, so its samples can only be read in turn: "
                f"unpack it (gunzip), which makes shards of images hardly larger, or use TarStream"
            )
        self._ends = np.cumsum(self.shards.counts())

    @property
    def block_lengths(self) -> list[int]:
        """Return the number of samples of each shard."""
        return list(self.shards.counts())

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"index {index} is out of range of {length} samples")
        return self.shards.make(self._find(index % length))

    def gather_node(self) -> SampleNode | None:
        """Return how a loader reads batches; None if samples are changed one by one."""
        if type(self).__module__ != __name__:  # a class of the user's may change samples
            return None
        return sample_node(self.shards, len(self), self._find)

    def _find(self, index: int) -> Waiting:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[shard - 1]) if shard else 0
        return self.shards.place(shard, index - first)
