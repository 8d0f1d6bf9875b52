"""An iterable dataset on tar shards: read in sequence, dealt to ranks and workers.

Runs in: worker (consumer with ``num_workers=0``).
Takes: nothing but an epoch; it is iterated over.
Gives: samples.

The order of a reader is a function of the seed, the epoch and the reader's share alone::

    shards, shuffled → their samples in a line → my stretch of it (without indices: my shards)
    → buffers of buffer_samples → samples of each buffer, shuffled
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from fastload._memory.write import Place
from fastload.datasets.epoch_stream import EpochStream
from fastload.datasets.nodes import MakesBatches, NotGatherableError
from fastload.datasets.ranks_and_workers import StreamShare, this_share
from fastload.datasets.tar_batches import NoImagesError, gather_samples, makes_batches
from fastload.datasets.tar_decoding import Decoder
from fastload.datasets.tar_samples import make_form
from fastload.datasets.tar_shards import Found, TarShards, UseIndex
from fastload.datasets.tar_woven import WovenSamples

BUFFER_SAMPLES = 1000
CANONICAL_SHARDS = 16
TURN_SAMPLES = 256
_VERSION = 1


class TarStream(EpochStream):
    """Yields the samples of tar shards in WebDataset's convention, without unpacking them to disk.

    Members that follow one another and share their name up to the first dot are a sample: a dict of
    ``"__key__"``, ``"__url__"`` (the shard) and its fields by what follows the dot. Samples are
    those of the package ``webdataset``. Shards may be packed by gzip.

    Each sample is read once in an epoch, whatever the number of ranks and workers. If all shards
    have an index beside them (made once by ``fastload index SHARD...``), shares are equal to the
    sample, ``len`` is known, and resuming reads nothing of what came before. Without, whole shards
    are dealt, so there should be at least as many as readers.

    Args:
        urls: Path, pattern with braces (``"train-{000..099}.tar"``) or wildcards, or an iterable of
            those.
        shuffle: Read shards in random order, and samples in random order within a buffer.
        buffer_samples: Number of consecutive samples that are shuffled. Of plain shards the buffer
            holds places only, of gzip ones the bytes.
        seed: Chooses the random order together with the epoch.
        decode: True: ``.jpg .jpeg .png .webp`` and other images become uint8 tensors
            (3, height, width), ``.cls`` an int, ``.json`` what it holds, ``.txt`` a string,
            ``.npy`` an array; other fields stay bytes. False: all stay bytes. A mapping of names to
            functions of bytes replaces the usual functions for these names.
        fields: Names of the fields that are wanted, as ``["jpg;png", "cls"]`` where one of several
            is taken: samples are then tuples, and other fields are not read. None: dicts of all.
        transform: Called with each sample.
        allow_pickle: Read ``.pkl .pyd .pth``, which can run any code.
        index: ``"auto"``: use indices if all shards have one; ``"require"``: it is an error if one
            has none; ``"ignore"``.
        verify: Compare the checksums of an index with what is read.
        rank: The number of this process among ``world_size``; None: that of the process group if
            there is one, or torchrun's, when the stream is made.
        world_size: Number of processes that share the samples.
        canonical_shards: With a loader that has ``seed=``: the shards of an epoch are dealt to so
            many, which take turns. The order then depends on neither workers nor ranks.
        turn_samples: Samples of a turn.

    Raises:
        FileNotFoundError: A shard is missing, or an index that is required.
        ValueError: An option doesn't fit, or an index is of another state of its shard.
        CorruptDataError: An index is damaged; while reading: a shard is.

    Example:
        >>> import io, tarfile
        >>> members = {"a.txt": b"yes", "a.cls": b"1", "b.txt": b"no", "b.cls": b"0"}
        >>> with tarfile.open("/tmp/two.tar", "w") as file:
        ...     for name, content in members.items():
        ...         member = tarfile.TarInfo(name)
        ...         member.size = len(content)
        ...         file.addfile(member, io.BytesIO(content))
        >>> list(TarStream("/tmp/two.tar", fields=["txt", "cls"]))
        [('yes', 1), ('no', 0)]
    """

    batch_size: int | None = None
    drop_last = False

    def __init__(
        self,
        urls: Any,
        shuffle: bool = False,
        *,
        buffer_samples: int = BUFFER_SAMPLES,
        seed: int = 0,
        decode: bool | Mapping[str, Decoder] = True,
        fields: Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        allow_pickle: bool = False,
        index: UseIndex = "auto",
        verify: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        canonical_shards: int = CANONICAL_SHARDS,
        turn_samples: int = TURN_SAMPLES,
    ) -> None:
        for name, value, least in (
            ("buffer_samples", buffer_samples, 1),
            ("canonical_shards", canonical_shards, 1),
            ("turn_samples", turn_samples, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is at least {least}, but got {value}")
        self.shuffle = shuffle
        self.buffer_samples = buffer_samples
        self.seed = seed
        self.canonical_shards = canonical_shards
        self.turn_samples = turn_samples
        super().__init__(rank, world_size)
        form = make_form(decode, fields, transform, allow_pickle=allow_pickle, verify=verify)
        self.shards = TarShards(urls, form, index)
        self._reader: _SampleIterator | None = None

    def __len__(self) -> int:
        """Return how many samples this rank's only reader yields.

        Raises:
            TypeError: A shard has no index: the number is known only once all was read.
        """
        return self.count_batches()

    def count_batches(
        self, workers: int = 1, batch_size: int | None = None, *, drop_last: bool = False
    ) -> int:
        """Return exactly how many batches, or samples, this rank's workers yield in an epoch.

        Args:
            workers: How many read; ``fastload.DataLoader`` says so when asked for its length.
            batch_size: The size of the batches that a loader makes of what is yielded; None: it
                makes none.
            drop_last: Whether that loader leaves out short batches.

        Raises:
            TypeError: A shard has no index: the number is known only once all was read.
        """
        if not self.shards.is_indexed:
            raise TypeError(
                "a TarStream without indices has no length before it was read; make them once with "
                "`fastload index SHARD...`"
            )
        total = 0
        for worker in range(max(workers, 1)):
            share = StreamShare(self.rank, self.world_size, worker, max(workers, 1))
            first, end = self.shards.stretch(share)
            size = batch_size or 1
            total += (end - first) // size if drop_last else -(-(end - first) // size)
        return total

    def __getstate__(self) -> dict[str, Any]:
        # An iterator stays in its process; what was loaded goes along.
        return {**self.__dict__, "_reader": None}

    def __iter__(self) -> Iterator[Any]:
        share = this_share(self.rank, self.world_size)
        epoch, position = self._start(share)
        self._reader = _SampleIterator(self, share, epoch, position)
        return self._reader

    def state_dict(self) -> dict[str, Any]:
        """Return where the newest iterator in this process stands, as plain values.

        One that has ended leaves nothing to go on with: what is loaded then begins an epoch, that
        of ``set_epoch``, for any number of ranks and workers.
        """
        if self._loaded is not None:
            return dict(self._loaded)
        reader = self._reader
        return {
            "version": _VERSION,
            "epoch": self.epoch if reader is None else reader.epoch,
            "position": 0 if reader is None else reader.position,
            "is_finished": reader is not None and reader.is_finished,
            "share": list(this_share(self.rank, self.world_size)),
            "order": self._fingerprint(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iterator go on where the state was taken; what came before is not decoded.

        With indices, nothing of it is read; without, its headers are.

        Raises:
            ValueError: The state is of other shards, or of another order.
        """
        self._take(state_dict, _VERSION)
        self._reader = None

    def seeded_rows(self, epoch: int) -> WovenSamples:
        """Return the samples of an epoch by position in the stream of a loader with ``seed=``."""
        return WovenSamples(
            self.shards,
            epoch,
            seed=self.seed if self.shuffle else None,
            buffer_samples=self.buffer_samples,
            canonical_shards=self.canonical_shards,
            turn_samples=self.turn_samples,
        )

    @property
    def seeded_length(self) -> int:
        """Return the number of samples of an epoch; without indices, headers are read for it."""
        return sum(self.shards.counts())

    def seeded_identity(self) -> dict[str, Any]:
        """Return as plain values what, beside the epoch, ``seeded_rows`` follows from."""
        shuffled = [self.seed, self.buffer_samples] if self.shuffle else []
        return {
            "stream": [*self.shards.identity, self.seeded_length, *shuffled],
            "canonical_shards": self.canonical_shards,
            "turn_samples": self.turn_samples,
        }

    def read(self, share: StreamShare, epoch: int, position: int) -> Iterator[Found]:
        """Yield what a reader finds of an epoch, from a position in its order on."""
        seed = self.seed if self.shuffle else None
        order = self.shards.order(seed, epoch)
        if seed is None:
            yield from self.shards.read(order, share, position)
            return
        window, inside = divmod(position, self.buffer_samples)
        line = self.shards.read(order, share, window * self.buffer_samples)
        while buffer := list(islice(line, self.buffer_samples)):
            draw = np.random.default_rng([seed, epoch, window])
            for number in draw.permutation(len(buffer))[inside:].tolist():
                yield buffer[number]
            window, inside = window + 1, 0

    def _start(self, share: StreamShare) -> tuple[int, int]:
        state, self._loaded = self._loaded, None
        if state is None:
            return self.epoch, 0
        if state["share"] != list(share):
            raise ValueError(
                f"this state is of {StreamShare(*state['share'])}, but cannot be resumed in "
                f"{share}: samples are dealt to as many ranks and workers as there were. A loader "
                f"with seed= goes on with any number"
            )
        return state["epoch"], state["position"]

    def _fingerprint(self) -> list[Any]:
        shuffled = [self.seed, self.buffer_samples] if self.shuffle else []
        samples = sum(self.shards.counts()) if self.shards.is_indexed else None
        return [*self.shards.identity, samples, *shuffled]


class _SampleIterator(MakesBatches):
    """The iterator of a stream. After an error it goes on with the next sample, or shard."""

    def __init__(self, stream: TarStream, share: StreamShare, epoch: int, position: int) -> None:
        self.epoch, self.position, self.is_finished = epoch, position, False
        self._shards = stream.shards
        self._found = stream.read(share, epoch, position)
        self._put_back: deque[Found] = deque()
        self._makes_batches = type(stream) is TarStream and makes_batches(stream.shards)

    def next_batch(self, count: int, place: Place) -> tuple[int, Any] | None:
        """Do what ``MakesBatches.next_batch`` says."""
        if not self._makes_batches:
            return None
        # Those that were put back are as many as the batch that could not be made, or fewer.
        found = [*self._put_back, *islice(self._found, count - len(self._put_back))]
        self._put_back.clear()
        try:
            batch = gather_samples(self._shards, found, place)
        except NotGatherableError as error:
            self._put_back.extend(found)
            self._makes_batches = not isinstance(error, NoImagesError)
            return None
        self.position += len(found)
        self.is_finished = len(found) < count
        return len(found), batch

    def __next__(self) -> Any:
        try:
            found = self._put_back.popleft() if self._put_back else next(self._found)
        except StopIteration:
            self.is_finished = True
            raise
        # Before it is made: whoever asks for the state while it has the sample counts it.
        self.position += 1
        if isinstance(found, Exception):
            raise found
        return self._shards.make(found)
