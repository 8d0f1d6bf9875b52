"""Datasets in memory give torch's batches, though no sample is made."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset

import fastload
from fastload._memory.write import HEAP
from fastload.datasets import ArrayDataset
from fastload.datasets.gather import gatherer
from fastload.datasets.nodes import NotGatherableError
from tests.contract.same import assert_same
from tests.start_methods import METHODS

ROWS = 23


def tensors(*, rows: int = ROWS, offset: int = 0) -> TensorDataset:
    x = torch.arange(offset, offset + rows * 6, dtype=torch.float32).view(rows, 2, 3)
    return TensorDataset(x, torch.arange(offset, offset + rows))


def array(dtype: Any = np.float32, *shape: int) -> np.ndarray:
    size = int(np.prod((ROWS, *shape)))
    return (np.arange(size) % 101).astype(dtype).reshape(ROWS, *shape)


GATHERED = {
    "tensors": tensors(),
    "bool-and-complex": TensorDataset(
        torch.arange(ROWS) % 2 == 0, torch.arange(ROWS).to(torch.complex64)
    ),
    "unsigned": TensorDataset(torch.arange(ROWS).to(torch.uint16)),
    "transposed": TensorDataset(torch.rand(4, ROWS).t()),
    "overlapping": TensorDataset(torch.rand(1, 4).expand(ROWS, 4)),
    "rows-without-elements": TensorDataset(torch.rand(ROWS, 0), torch.arange(ROWS)),
    "plain-tensor": torch.rand(ROWS, 4),
    "plain-array": array(np.int16, 3),
    "plain-array-of-numbers": array(np.float16),
    "arrays": ArrayDataset(array(np.uint8, 2, 2), array(np.float64), array(np.bool_)),
    "dict-of-arrays": ArrayDataset({"x": array(np.float32, 4), "y": torch.arange(ROWS)}),
    "array-in-columns": ArrayDataset(np.asfortranarray(array(np.float32, 3, 4))),
    "every-second-row": ArrayDataset(np.arange(2 * ROWS)[::2]),
    "subset": Subset(tensors(), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]),
    "subset-of-array-indices": Subset(tensors(), np.arange(0, ROWS, 2)),
    "subset-of-numpy-integers": Subset(tensors(), list(np.arange(0, ROWS, 2))),
    "subset-of-tensor-indices": Subset(tensors(), torch.arange(1, ROWS)),
    "subset-of-range": Subset(tensors(), range(5, ROWS)),
    "concat": ConcatDataset([tensors(rows=7), tensors(rows=1, offset=50), tensors(offset=100)]),
    "concat-with-an-empty-one": ConcatDataset([tensors(rows=0), tensors(rows=9)]),
    "concat-of-unsigned": ConcatDataset([array(np.uint32), array(np.uint32)]),
    "concat-of-arrays": ConcatDataset([array(np.int32, 2), array(np.int32, 2) + 1000]),
    "stack": StackDataset(tensors(), array(np.float32, 2)),
    "stack-of-names": StackDataset(image=array(np.float32, 2), label=torch.arange(ROWS)),
    "nested": Subset(
        ConcatDataset([StackDataset(a=tensors(), b=array()), StackDataset(a=tensors(), b=array())]),
        list(range(0, 2 * ROWS, 3)),
    ),
    "read-only": ArrayDataset(np.frombuffer(bytes(range(ROWS)), np.uint8)),
}


class Doubled(TensorDataset):
    """A subclass that changes what a sample is."""

    def __getitem__(self, index):
        return tuple(2 * each for each in super().__getitem__(index))


class WithItems(Dataset):
    """A dataset that reads batches itself."""

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        raise AssertionError("batches are asked for")

    def __getitems__(self, indices):
        return [torch.tensor(index) for index in indices]


SAMPLE_BY_SAMPLE = {
    "subclass": Doubled(*tensors().tensors),
    "subset-of-subclass": Subset(Doubled(*tensors().tensors), range(10)),
    "stack-with-subclass": StackDataset(tensors(), Doubled(*tensors().tensors)),
    "user-batches": WithItems(),
    "subset-of-user-batches": Subset(WithItems(), range(0, 20, 2)),
    "list": list(range(ROWS)),
    "channels-last": TensorDataset(torch.rand(ROWS, 3, 4, 5).to(memory_format=torch.channels_last)),
    "concat-of-two-dtypes": ConcatDataset([array(np.float32), array(np.float64)]),
    "concat-of-two-kinds": ConcatDataset([tensors(), StackDataset(*tensors().tensors)]),
    "subset-of-negative-indices": Subset(tensors(), [-1, -2, 0]),
    "concat-with-negative-indices": Subset(ConcatDataset([tensors(), tensors()]), [-1, 3]),
    "subset-of-bools": Subset(torch.arange(ROWS), [1, 0, 2]),
    "subset-of-subset": Subset(Subset(tensors(), [4, 5, 6]), [-1, 0]),
}


def batches(loader: Any) -> list[Any]:
    torch.manual_seed(3)
    return list(loader)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", [*GATHERED, *SAMPLE_BY_SAMPLE])
def test_batches_are_torchs(name: str, workers: int) -> None:
    """Types, dtypes, shapes, values and order are those of torch's loader."""
    dataset = {**GATHERED, **SAMPLE_BY_SAMPLE}[name]
    options = {"batch_size": 4, "shuffle": True}
    expected = batches(torch.utils.data.DataLoader(dataset, **options))
    loader = fastload.DataLoader(dataset, num_workers=workers, **options)
    assert_same(batches(loader), expected)


@pytest.mark.parametrize("name", GATHERED)
def test_known_datasets_are_gathered(name: str) -> None:
    """No sample is made: the batch comes from index operations alone."""
    gather = gatherer(GATHERED[name])
    assert gather is not None
    expected = torch.utils.data.default_collate([GATHERED[name][i] for i in (5, 0, 5)])
    assert_same(gather([5, 0, 5], HEAP), expected)


@pytest.mark.parametrize(
    "name", ["subclass", "stack-with-subclass", "user-batches", "list", "channels-last"]
)
def test_unknown_datasets_are_read_sample_by_sample(name: str) -> None:
    """What is not exactly a known class may do anything in its own methods."""
    assert gatherer(SAMPLE_BY_SAMPLE[name]) is None


INDICES = [[-1, 2], [10 * ROWS], [-10 * ROWS], [True, 2], [1.0], [2**70], [np.int32(1)], []]


@pytest.mark.parametrize("indices", INDICES)
@pytest.mark.parametrize("name", ["tensors", "arrays", "subset", "concat", "stack"])
def test_odd_indices_give_what_torch_gives(name: str, indices: list[Any]) -> None:
    """Negative ones count from the end, others raise: as sample by sample."""
    dataset = GATHERED[name]
    with pytest.raises(NotGatherableError):
        gatherer(dataset)(indices, HEAP)
    if not indices:
        return
    results = []
    for loader_class in (torch.utils.data.DataLoader, fastload.DataLoader):
        try:
            results.append(list(loader_class(dataset, batch_sampler=[indices])))
        except Exception as error:
            results.append(type(error))
    assert_same(results[1], results[0])


def test_extended_registry_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that the user registered for arrays gets the arrays."""
    from torch.utils.data._utils.collate import default_collate_fn_map

    calls = []
    monkeypatch.setitem(
        default_collate_fn_map, np.ndarray, lambda batch, **_: calls.append(len(batch))
    )
    assert list(fastload.DataLoader(array(np.float32, 2), batch_size=20)) == [None, None]
    assert calls == [20, 3]


def test_a_kernel_for_numbers_alone_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one for a single type of NumPy's."""
    from torch.utils.data._utils.collate import default_collate_fn_map

    monkeypatch.setitem(default_collate_fn_map, np.int64, lambda batch, **_: len(batch))
    assert list(fastload.DataLoader(np.arange(5), batch_size=3)) == [3, 2]


def test_array_dataset_refuses_unequal_lengths() -> None:
    """The error gives the lengths by name."""
    with pytest.raises(ValueError, match=r"same first dimension, but got \{'x': 3, 'y': 4\}"):
        ArrayDataset({"x": np.zeros(3), "y": np.zeros(4)})


@pytest.mark.parametrize("wrong", [[1, 2, 3], np.float32(3), torch.tensor(1)])
def test_array_dataset_refuses_what_has_no_rows(wrong: Any) -> None:
    """Lists, numbers and tensors without dimensions are named."""
    with pytest.raises(TypeError, match="array 0 is a"):
        ArrayDataset(wrong)


def test_array_dataset_refuses_nothing() -> None:
    """There must be an array."""
    with pytest.raises(ValueError, match="at least one array"):
        ArrayDataset()


@pytest.mark.parametrize("order", ["C", "F"])
def test_mapped_array_travels_as_its_path(tmp_path, order: str) -> None:
    """A pickled dataset maps the file again instead of holding its content."""
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", 16, (1000, 50), order)
    mapped[:] = np.arange(50_000).reshape(1000, 50)
    mapped.flush()
    dataset = ArrayDataset(mapped)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1000
    assert_same(pickle.loads(pickled)[7][0].tolist(), mapped[7].tolist())
    part = pickle.loads(pickle.dumps(ArrayDataset(mapped[10:])))
    assert_same(part[0][0].tolist(), mapped[10].tolist())


@pytest.mark.parametrize("context", METHODS)
def test_mapped_arrays_are_read_in_workers(tmp_path, context: str) -> None:
    """However the workers start."""
    mapped = np.memmap(tmp_path / "x", np.int64, "w+", shape=(100, 3))
    mapped[:] = np.arange(300).reshape(100, 3)
    loader = fastload.DataLoader(
        ArrayDataset(mapped), batch_size=32, num_workers=1, multiprocessing_context=context
    )
    assert torch.cat([batch for (batch,) in loader]).equal(torch.arange(300).view(100, 3))


def full(value: float, rows: int = 8) -> np.ndarray:
    return np.full(rows, value, np.float32)


def _swap(key: Any, array: Any) -> Any:
    return lambda dataset: dataset.arrays.__setitem__(key, array)


def _moved(dataset: Any) -> None:
    """Give the array's memory back and take another, of the same shape."""
    dataset.arrays["x"].resize(1 << 16, refcheck=False)
    dataset.arrays["x"].resize(8, refcheck=False)
    dataset.arrays["x"][:] = 3


def _emptied(dataset: Any) -> None:
    dataset.tensors[0].untyped_storage().resize_(0)
    dataset.tensors[0].untyped_storage().resize_(32)
    dataset.tensors[0].fill_(4)


def _patched(dataset: Any) -> None:
    dataset.__getitems__ = lambda indices: [(torch.tensor(-1.0),) for _ in indices]


CHANGES = {
    "array": (lambda: ArrayDataset({"x": full(1)}), _swap("x", full(2))),
    "array-of-another-dtype": (
        lambda: ArrayDataset({"x": full(1)}),
        _swap("x", full(2).astype(np.int64)),
    ),
    "array-of-objects": (
        lambda: ArrayDataset({"x": full(1)}),
        _swap("x", np.array([2.0] * 8, object).tolist()),
    ),
    "another-key": (lambda: ArrayDataset({"x": full(1)}), _swap("y", full(2))),
    "array-that-moved": (lambda: ArrayDataset({"x": full(1)}), _moved),
    "array-turned-round": (
        lambda: ArrayDataset({"x": np.arange(8.0)}),
        lambda d: d.arrays.__setitem__("x", d.arrays["x"][::-1]),
    ),
    "array-viewed-as-another-dtype": (
        lambda: ArrayDataset({"x": full(1)}),
        lambda d: d.arrays.__setitem__("x", d.arrays["x"].view(np.int32)),
    ),
    "stacked-arrays": (
        lambda: StackDataset(full(1), full(5)),
        lambda d: setattr(d, "datasets", (full(2), full(6))),
    ),
    "subset-of-another": (
        lambda: Subset(full(1), range(8)),
        lambda d: setattr(d, "dataset", full(2)),
    ),
    "subset-of-other-indices": (
        lambda: Subset(np.arange(8.0), list(range(8))),
        lambda d: setattr(d, "indices", list(range(7, -1, -1))),
    ),
    "indices-in-place": (
        lambda: Subset(np.arange(8.0), list(range(8))),
        lambda d: d.indices.reverse(),
    ),
    "array-of-indices": (
        lambda: Subset(np.arange(8.0), np.arange(8)),
        lambda d: setattr(d, "indices", np.arange(8)[::-1]),
    ),
    "part-of-a-chain": (
        lambda: ConcatDataset([full(1, 4), full(1, 4)]),
        lambda d: d.datasets.__setitem__(1, full(2, 4)),
    ),
    "chain-of-other-lengths": (
        lambda: ConcatDataset([full(1, 6), full(2, 2)]),
        lambda d: setattr(d, "cumulative_sizes", [2, 8]) or d.datasets.reverse(),
    ),
    "deep-inside": (
        lambda: Subset(ConcatDataset([StackDataset(a=full(1))]), range(8)),
        lambda d: d.dataset.datasets[0].datasets.__setitem__("a", full(2)),
    ),
    "tensors": (
        lambda: TensorDataset(torch.ones(8)),
        lambda d: setattr(d, "tensors", (torch.full((8,), 2.0),)),
    ),
    "set_": (
        lambda: TensorDataset(torch.ones(8)),
        lambda d: d.tensors[0].set_(torch.full((8,), 2.0)),
    ),
    "resize_": (
        lambda: TensorDataset(torch.ones(8)),
        lambda d: d.tensors[0].resize_(1 << 16).fill_(2.0),
    ),
    "storage-emptied": (lambda: TensorDataset(torch.ones(8)), _emptied),
    "transposed": (
        lambda: TensorDataset(torch.arange(64.0).view(8, 8)),
        lambda d: d.tensors[0].t_(),
    ),
    "conjugated-in-the-same-memory": (
        lambda: TensorDataset(torch.full((8,), 1j)),
        lambda d: setattr(d, "tensors", (d.tensors[0].conj(),)),
    ),
    "gradients": (
        lambda: TensorDataset(torch.ones(8)),
        lambda d: d.tensors[0].requires_grad_(),
    ),
    "own-batches": (lambda: TensorDataset(torch.ones(8)), _patched),
}


def with_change_after_two_batches(loader_class: Any, name: str, **options: Any) -> list[Any]:
    make, change = CHANGES[name]
    dataset = make()
    found = []
    for number, batch in enumerate(loader_class(dataset, batch_size=2, **options)):
        found.append(batch)
        if number == 1:
            change(dataset)
    return found


@pytest.mark.filterwarnings("ignore:.*non-resizable|.*resized since it had shape")
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_replaced_in_mid_epoch_counts_at_once(name: str) -> None:
    """Without workers a batch shows the dataset as it is when the batch is asked for."""
    expected = with_change_after_two_batches(torch.utils.data.DataLoader, name)
    assert_same(with_change_after_two_batches(fastload.DataLoader, name), expected)


@pytest.mark.parametrize("name", ["array-that-moved", "storage-emptied"])
def test_memory_that_was_given_back_is_not_read(name: str) -> None:
    """Where the loader gathers in the place of workers, too."""
    found = with_change_after_two_batches(fastload.DataLoader, name, num_workers=1)
    values = [batch["x"] if isinstance(batch, dict) else batch[0] for batch in found]
    assert [each.tolist() for each in values[:2]] == [[1.0, 1.0]] * 2
    assert all(set(each.tolist()) <= {1.0, 3.0, 4.0} for each in values)


def test_a_dataset_that_contains_itself_is_read_sample_by_sample() -> None:
    """As long as nothing asks for the part that never ends."""
    chain = ConcatDataset([full(1)])
    chain.datasets.append(chain)
    expected = list(torch.utils.data.DataLoader(chain, batch_size=3))
    assert_same(list(fastload.DataLoader(chain, batch_size=3)), expected)
