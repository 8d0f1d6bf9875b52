"""Keep the loaded samples of a dataset on disk, from the first epoch on.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an index.
Gives: the sample, loaded by the dataset the first time and read from a mapped file ever after.
"""

from __future__ import annotations

import copyreg
import io
import json
import operator
import os
import pickle
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastload._memory.layout import CARRIERS
from fastload._memory.write import is_its_bytes
from fastload._seeded.generators import GLOBAL
from fastload._seeded.owned import comparable, find_generators
from fastload.errors import annotate
from fastload.sources.sample_store import SampleStore

_NAMES = ("Python's random", "numpy.random", "torch's default generator")
_FORM = 1


class Cached(Dataset[Any]):
    """A map-style dataset whose loaded samples are kept in a folder.

    The first time that a sample is asked for, the dataset loads it and it is written into the
    folder; from then on it is read from there, by every process that uses the folder: workers,
    ranks, later runs. Any number of processes fill it at a time, and each sample is loaded once.
    Whoever is killed meanwhile leaves nothing that others must clean up.

    What is kept must be what the dataset would give again. So a dataset that draws random numbers
    while it loads a sample is refused: put what is random into a dataset around this one, or into
    the collate function. In worker processes and without workers it is found out whatever
    generator is drawn from; in threads only if the dataset owns it. What depends on the epoch, on
    the time or on anything else that changes is not noticed.

    Args:
        dataset: Any map-style dataset of fixed length, whose samples can be pickled.
        folder: Where samples are kept; it is made if it is not there. Delete it to begin anew.
        key: What the samples depend on, such as a version or the options of a transform: any value
            that JSON can hold. It is written into the folder.

    Raises:
        ValueError: The folder has samples of another key or of a dataset of another length; or,
            when a sample is loaded, the dataset drew random numbers.
        CorruptDataError: A sample in the folder is damaged; when it is read.
        OSError: The disk is full, or the folder can't be written to.

    Example:
        >>> import tempfile
        >>> from fastload import Cached
        >>> class Slow(torch.utils.data.Dataset):
        ...     def __len__(self):
        ...         return 3
        ...
        ...     def __getitem__(self, index):
        ...         print("loads", index)
        ...         return index * index
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dataset = Cached(Slow(), folder, key="squares, version 1")
        ...     dataset[2], dataset[2]
        loads 2
        (4, 4)
    """

    def __init__(self, dataset: Any, folder: str | os.PathLike[str], *, key: Any) -> None:
        self.dataset = dataset
        self.folder = Path(folder).absolute()
        self.key = key
        self._length = len(dataset)
        self._opened: SampleStore | None = None
        self._are_owned_seen = False
        self._claim()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        number = operator.index(index)
        if not -self._length <= number < self._length:
            raise IndexError(f"index {index} is out of range of {self._length} samples")
        number %= self._length
        store = self._store()
        content = store.get(number)
        if content is not None:
            return pickle.loads(content)
        with store.lock(number):
            content = store.get(number)  # another may have been faster
            if content is not None:
                return pickle.loads(content)
            sample = self._load(number)
            store.put(number, _dumped(sample, number))
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}

    def _store(self) -> SampleStore:
        """Return the files, opened by this process: what a fork has opened is its parent's."""
        if self._opened is None or self._opened.pid != os.getpid():
            self._opened = SampleStore(self.folder, self._length)
        return self._opened

    def _load(self, number: int) -> Any:
        before = self._looks()
        sample = self.dataset[number]
        now = self._looks()
        self._are_owned_seen = True
        drawn = [name for name, look in before.items() if now.get(name, look) != look]
        if drawn:
            raise ValueError(
                f"{type(self.dataset).__name__} drew from {' and '.join(drawn)} while it loaded "
                f"sample {number}, so every epoch would get what was drawn in the first one. Cache "
                f"the dataset without what is random, and put that around it: "
                f"Augmented(Cached(dataset, folder, key=...))"
            )
        return sample

    def _looks(self) -> dict[str, object]:
        """Return the states of random generators; of those the dataset owns the first time only."""
        looks: dict[str, object] = {}
        # Beside other threads nobody can tell who drew: the training loop draws from these too.
        if threading.current_thread() is threading.main_thread():
            looks = {name: each.look() for name, each in zip(_NAMES, GLOBAL, strict=True)}
        if not self._are_owned_seen:
            for each in find_generators(self.dataset, "dataset"):
                looks[each.path] = comparable(each.save())
        return looks

    def _claim(self) -> None:
        """Write into a new folder whose samples it has; compare with an old one."""
        mine = {"fastload cache": _FORM, "key": self.key, "length": self._length}
        try:
            text = json.dumps(mine, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"key is a value that JSON can hold, such as a string, but got {self.key!r}: "
                f"{error}"
            ) from error
        self.folder.mkdir(parents=True, exist_ok=True)
        label = self.folder / "cache.json"
        if not label.exists():
            if any(
                each.name != "cache.json" and not _is_ours(each) for each in self.folder.iterdir()
            ):
                raise ValueError(
                    f"{self.folder} has other files in it; Cached wants a folder of its own"
                )
            _write_once(label, text)
        theirs = json.loads(label.read_text())
        for name, words in (("fastload cache", "form"), ("key", "key"), ("length", "length")):
            own = json.loads(text)[name]
            if theirs.get(name) != own:
                raise ValueError(
                    f"{self.folder} has samples of {words} {theirs.get(name)!r}, but this dataset "
                    f"has {words} {own!r}. Give another folder, or delete this one to fill it anew"
                )


def _is_ours(path: Path) -> bool:
    return path.name == "cache.json" or path.name.startswith(".cache.json-")


def _write_once(path: Path, text: str) -> None:
    """Write a file as a whole, unless another process was faster."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    draft.write_text(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _dumped(sample: Any, number: int) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5)
    pickler.dispatch_table = {**copyreg.dispatch_table, Tensor: _reduce_tensor}
    try:
        pickler.dump(sample)
    except Exception as error:
        annotate(error, f"while Cached wrote sample {number}, of type {type(sample).__name__}")
        raise
    return file.getvalue()


def _reduce_tensor(tensor: Tensor) -> Any:
    """Write the elements alone, not the whole storage, and without torch's own file in a file."""
    is_plain = is_its_bytes(tensor) and tensor.is_contiguous() and not tensor.requires_grad
    if not is_plain or tensor.__dict__ or not tensor.numel():
        return tensor.__reduce_ex__(5)  # type: ignore[no-untyped-call]
    numbers = tensor.view(CARRIERS.get(tensor.dtype.itemsize, tensor.dtype)).numpy()
    return _tensor, (numbers, tensor.dtype)


def _tensor(numbers: Any, dtype: torch.dtype) -> Tensor:
    # A view in a mapped file would be read-only; this array has memory of its own.
    array = numbers if numbers.flags.writeable else np.array(numbers)
    return torch.from_numpy(array).view(dtype)
