"""Datasets of Hugging Face: the batches of torch's loader over them, read by our readers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, default_collate

import fastload
from fastload._memory.write import HEAP
from fastload.datasets import kinds
from fastload.datasets.gather import gatherer
from fastload.datasets.nodes import NotGatherableError
from tests.contract.same import assert_same

datasets = pytest.importorskip("datasets")

ROWS = 203
FORMATS = ("torch", "numpy", None)
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
FLOATS = ("float16", "float32", "float64")


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def table(rows: int = ROWS) -> pa.Table:
    numbers = np.arange(rows)
    columns: dict[str, Any] = {
        name: pa.array((numbers * 7 % 120).astype(name)) for name in (*NUMBERS, *FLOATS)
    }
    columns["third"] = pa.array(numbers / 3)
    columns["negative"] = pa.array(-numbers, pa.int16())
    columns["large"] = pa.array(numbers * 2**40)
    columns["bool"] = pa.array(numbers % 3 == 0)
    columns["text"] = pa.array([f"row {n} \u00fc" for n in numbers])
    columns["long_text"] = pa.array(
        ["x" * (n % 7) + "\0" * (n % 2) for n in numbers], "large_string"
    )
    columns["bytes"] = pa.array([bytes([n % 3]) * (n % 4) for n in numbers], pa.binary())
    columns["list"] = pa.array([[n, n + 1, n + 2] for n in numbers], pa.list_(pa.int32()))
    columns["large_list"] = pa.array([[n / 3] for n in numbers], pa.large_list(pa.float64()))
    columns["vector"] = pa.array([[n / 3, n] for n in numbers], pa.list_(pa.float32(), 2))
    return pa.table(columns)


def in_memory(rows: int = ROWS) -> Any:
    return datasets.Dataset(table(rows))


def in_pieces(rows: int = ROWS) -> Any:
    return datasets.Dataset(
        pa.concat_tables([table(rows).slice(at, 50) for at in range(0, rows, 50)])
    )


def mapped(folder: Path, rows: int = ROWS, shards: int = 1) -> Any:
    in_pieces(rows).save_to_disk(str(folder / "saved"), num_shards=shards)
    return datasets.load_from_disk(str(folder / "saved"))


KEPT: dict[str, Callable[[Path], Any]] = {
    "in-memory": lambda _: in_memory(),
    "in-pieces": lambda _: in_pieces(),
    "mapped": mapped,
    "mapped-in-shards": lambda folder: mapped(folder, shards=3),
    "a-slice": lambda _: datasets.Dataset(table().slice(13, 111)),
    "joined": lambda folder: datasets.concatenate_datasets([in_memory(), mapped(folder)]),
    "shuffled": lambda _: in_pieces().shuffle(seed=3),
    "mapped-and-shuffled": lambda folder: mapped(folder).shuffle(seed=3),
    "selected": lambda _: in_memory().select([5, 3, 77, 77, 0]),
    "shuffled-and-selected": lambda _: in_pieces().shuffle(seed=3).select(range(5, 90, 3)),
    "sharded": lambda _: in_pieces().shard(3, 1),
    "flat-indices": lambda _: in_pieces().shuffle(seed=3).flatten_indices(),
}


def gathered(dataset: Any, rows: list[int]) -> Any:
    """What our readers give; they must be willing."""
    gather = gatherer(dataset)
    assert gather is not None, "the dataset is not read by us"
    return gather(rows, HEAP)


def own(dataset: Any, rows: list[int]) -> Any:
    return default_collate(dataset.__getitems__(rows))


def is_taken_over(dataset: Any) -> bool:
    return kinds.node_of(dataset) is not None


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("kept", KEPT)
def test_batches_are_those_of_the_dataset_itself(kept: str, style: Any, tmp_path: Path) -> None:
    dataset = KEPT[kept](tmp_path).with_format(style)
    count = len(dataset)
    for rows in ([0], [count - 1, 0, 1, count // 2, 0], list(range(count)), [count // 3] * 4):
        assert_same(gathered(dataset, rows), own(dataset, rows))


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("name", table(1).column_names)
def test_every_type_alone(name: str, style: Any) -> None:
    dataset = in_pieces().select_columns([name]).with_format(style)
    rows = [202, 3, 51, 3]
    assert_same(gathered(dataset, rows), own(dataset, rows))


@pytest.mark.parametrize("style", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
def test_arrays_of_a_fixed_shape(dtype: str, style: str, tmp_path: Path) -> None:
    features = datasets.Features({"a": datasets.Array3D((2, 3, 4), dtype)})
    arrays = [np.arange(24).reshape(2, 3, 4).astype(dtype) * n for n in range(9)]
    dataset = datasets.Dataset.from_dict({"a": arrays}, features=features)
    dataset.save_to_disk(str(tmp_path / "arrays"))
    for each in (dataset, datasets.load_from_disk(str(tmp_path / "arrays"))):
        each = each.with_format(style)
        for rows in ([0], [8, 2, 2, 5]):
            assert_same(gathered(each, rows), own(each, rows))


@pytest.mark.parametrize("style", ["torch", "numpy"])
def test_chosen_columns_and_the_others_as_objects(style: str) -> None:
    for has_others in (False, True):
        dataset = in_pieces().with_format(
            style, columns=["third", "int8", "list"], output_all_columns=has_others
        )
        assert_same(gathered(dataset, [7, 60, 200]), own(dataset, [7, 60, 200]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_dtype_of_the_format(dtype: torch.dtype) -> None:
    dataset = in_pieces().with_format("torch", dtype=dtype)
    assert_same(gathered(dataset, [7, 60, 200]), own(dataset, [7, 60, 200]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_an_integer_dtype_of_the_format(dtype: torch.dtype) -> None:
    dataset = in_pieces().select_columns(["int8", "uint16", "bool", "list"])
    dataset = dataset.with_format("torch", dtype=dtype)
    assert_same(gathered(dataset, [7, 60, 200]), own(dataset, [7, 60, 200]))
    assert not is_taken_over(in_memory().with_format("torch", dtype=dtype))  # floats


def test_class_labels_and_names_of_columns() -> None:
    features = datasets.Features(
        {"label": datasets.ClassLabel(names=["a", "b"]), "x y": datasets.Value("float32")}
    )
    dataset = datasets.Dataset.from_dict(
        {"label": [0, 1, 1], "x y": [0.5, 1.5, 2.5]}, features=features
    ).rename_column("x y", "z")
    for style in FORMATS:
        each = dataset.with_format(style)
        assert_same(gathered(each, [2, 0]), own(each, [2, 0]))


class OfAUser(datasets.Dataset):
    """May do anything."""


def _with_image() -> Any:
    pytest.importorskip("PIL")
    from PIL import Image

    images = [Image.new("L", (2, 2), n) for n in range(4)]
    return datasets.Dataset.from_dict(
        {"i": images}, features=datasets.Features({"i": datasets.Image()})
    )


def _patched() -> Any:
    dataset = in_memory()
    dataset.__dict__["_getitem"] = dataset._getitem
    return dataset


LEFT = {
    "a transform": lambda: in_memory().with_transform(lambda batch: {"x": batch["third"]}),
    "a subclass": lambda: OfAUser(table()),
    "a method of its own": _patched,
    "arrow": lambda: in_memory().with_format("arrow"),
    "pandas": lambda: in_memory().with_format("pandas"),
    "an unknown option": lambda: in_memory().with_format("torch", device="cpu"),
    "an option of numpy": lambda: in_memory().with_format("numpy", dtype=np.float16),
    "no rows": lambda: in_memory().select([]),
    "no columns": lambda: in_memory().select_columns([]),
    "uint64": lambda: datasets.Dataset.from_dict({"x": np.arange(4, dtype="uint64")}),
    "times": lambda: datasets.Dataset(pa.table({"x": pa.array([1, 2], pa.timestamp("us"))})),
    "a struct": lambda: datasets.Dataset.from_list([{"x": {"a": 1}}, {"x": {"a": 2}}]),
    "lists in lists": lambda: datasets.Dataset.from_dict({"x": [[[1], [2]], [[3], [4]]]}),
    "lists of bools": lambda: datasets.Dataset.from_dict({"x": [[True], [False]]}),
    "images": _with_image,
    "only nulls": lambda: datasets.Dataset.from_dict({"x": [None, None]}),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_known_is_left_to_the_dataset(name: str) -> None:
    assert not is_taken_over(LEFT[name]())


def test_numbers_that_do_not_lie_in_line_are_left_to_the_dataset() -> None:
    """In the only chunk, so that nothing can be read; and in one of several."""
    memory = pa.py_buffer(np.arange(9, dtype=np.int64).tobytes()).slice(4, 64)
    odd = pa.table({"x": pa.Array.from_buffers(pa.int64(), 8, [None, memory])})
    assert not is_taken_over(datasets.Dataset(odd).with_format("torch"))
    even = pa.table({"x": np.arange(8)})
    dataset = datasets.Dataset(pa.concat_tables([even, odd, even])).with_format("torch")
    assert is_taken_over(dataset)
    both(dataset, batch_size=3)


def test_a_formatter_that_somebody_registered_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(datasets.formatting.torch_formatter.TorchFormatter):
        pass

    monkeypatch.setitem(datasets.formatting._FORMAT_TYPES, "torch", Other)
    assert not is_taken_over(in_memory().with_format("torch"))


def test_a_version_that_formats_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the table says: some rows are read both ways first."""
    plain = datasets.formatting.torch_formatter.TorchFormatter._tensorize
    assert is_taken_over(in_memory().with_format("torch"))

    def doubled(self: Any, value: Any) -> Any:
        found = plain(self, value)
        return found.double() if isinstance(found, torch.Tensor) else found

    monkeypatch.setattr(datasets.formatting.torch_formatter.TorchFormatter, "_tensorize", doubled)
    assert not is_taken_over(in_memory().with_format("torch"))


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize(
    "values",
    [
        [1, 2, None, 4, 5],
        [[1], [2], [3, 4], [5], [6]],
        [[1], [2], [None], [5], [6]],
        ["a", None] * 3,
    ],
)
def test_batches_with_nulls_and_unequal_lists_are_left_to_it(values: list[Any], style: Any) -> None:
    dataset = datasets.Dataset.from_dict({"x": values}).with_format(style)
    if values[2] != [None]:  # there nothing at all can be read
        with pytest.raises(NotGatherableError):
            gathered(dataset, [1, 2])
    for rows in ([0], [1, 2], [4, 0]):
        results = []
        for kind in (torch.utils.data.DataLoader, fastload.DataLoader):
            try:
                results.append(list(kind(dataset, batch_sampler=[rows])))
            except Exception as error:
                results.append(type(error))
        if isinstance(results[0], type):
            assert results[0] is results[1]
        else:
            assert_same(results[1], results[0])


def both(dataset: Any, **options: Any) -> None:
    expected = list(torch.utils.data.DataLoader(dataset, **options))
    assert_same(list(fastload.DataLoader(dataset, **options)), expected)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("kept", ["in-pieces", "mapped-and-shuffled"])
def test_batches_of_workers(kept: str, style: Any, method: str, tmp_path: Path) -> None:
    dataset = KEPT[kept](tmp_path).with_format(style)
    both(dataset, batch_size=32, num_workers=2, multiprocessing_context=method)


@pytest.mark.parametrize("style", FORMATS)
def test_small_batches_in_memory_need_no_workers(style: Any) -> None:
    dataset = in_memory().select_columns(["third", "int8"]).with_format(style)
    assert kinds.sample_bytes(dataset) == (12 if style else 16)
    both(dataset, batch_size=32, num_workers=2)


def test_mapped_files_are_left_to_workers(tmp_path: Path) -> None:
    assert kinds.sample_bytes(mapped(tmp_path).select_columns(["third"])) is None


def test_shuffled_by_the_loader() -> None:
    for options in ({}, {"num_workers": 2}):
        epochs = []
        for kind in (torch.utils.data.DataLoader, fastload.DataLoader):
            torch.manual_seed(3)
            loader = kind(in_pieces().with_format("torch"), batch_size=9, shuffle=True, **options)
            epochs.append([list(loader), list(loader)])
        assert_same(epochs[1], epochs[0])


def test_inside_of_torchs_own_datasets() -> None:
    first = in_pieces().select_columns(["third", "text", "list"]).with_format("torch")
    chain = ConcatDataset([first, Subset(first, [4, 100, 7]), first.shuffle(seed=1)])
    assert is_taken_over(chain)
    both(chain, batch_size=17, shuffle=False)
    torch.manual_seed(1)
    rows = torch.randperm(len(chain)).tolist()
    both(Subset(chain, rows), batch_size=17)


def test_negative_and_wrong_indices_are_the_datasets_own_affair() -> None:
    both(in_memory().with_format("torch"), batch_sampler=[[-1, 3], [2]])
    with pytest.raises(IndexError):
        list(fastload.DataLoader(in_memory(), batch_sampler=[[1, ROWS]]))


def test_a_format_that_changes_in_mid_epoch_counts_at_once() -> None:
    def run(kind: Any) -> list[Any]:
        dataset, found = in_memory().select_columns(["third"]).with_format("torch"), []
        for number, batch in enumerate(kind(dataset, batch_size=60)):
            found.append(batch)
            if number == 1:
                dataset.set_format(None)
        return found

    assert_same(run(fastload.DataLoader), run(torch.utils.data.DataLoader))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_seeded_stream_has_the_same_rows(num_workers: int, tmp_path: Path) -> None:
    dataset = mapped(tmp_path).with_format("torch")
    order = list(fastload.ShuffleSampler(len(dataset), seed=7))
    loader = fastload.DataLoader(
        dataset, batch_size=20, shuffle=True, seed=7, num_workers=num_workers
    )
    expected = [own(dataset, order[at : at + 20]) for at in range(0, len(order), 20)]
    assert_same(list(loader), expected)


def test_nothing_of_the_package_is_imported_without_need() -> None:
    script = (
        "import sys, torch, fastload\n"
        "data = torch.utils.data.TensorDataset(torch.ones(8))\n"
        "list(fastload.DataLoader(data, batch_size=2))\n"
        "assert 'datasets' not in sys.modules\n"
        "assert 'fastload.datasets.hugging_face' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)


def stream(shards: int = 4) -> Any:
    numbers = datasets.Dataset.from_dict({"x": list(range(100))})
    return numbers.to_iterable_dataset(num_shards=shards)


def xs(loader: Any) -> list[list[int]]:
    return [batch["x"].tolist() for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


@pytest.mark.parametrize("num_workers", [0, 2, 4])
@pytest.mark.parametrize("style", FORMATS)
def test_a_stream_has_torchs_batches(style: Any, num_workers: int) -> None:
    both(stream().with_format(style), batch_size=8, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_and_workers_share_a_stream(num_workers: int) -> None:
    """Which shards a rank reads is said by ``split_dataset_by_node``, as anywhere else."""
    from datasets.distributed import split_dataset_by_node

    found = []
    for rank in range(2):
        share = split_dataset_by_node(stream(), rank, 2)
        found += flat(xs(fastload.DataLoader(share, batch_size=8, num_workers=num_workers)))
    assert sorted(found) == list(range(100))


@pytest.mark.filterwarnings("ignore:num_workers=2, but with seed= one worker reads")
@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_goes_on_from_its_state(num_workers: int, seed: int | None) -> None:
    options: dict[str, Any] = {"batch_size": 8, "num_workers": num_workers}
    if seed is not None:
        options["seed"] = seed
    whole = xs(fastload.DataLoader(stream(), **options))
    assert sorted(flat(whole)) == list(range(100))
    for taken in (1, 5):
        first = fastload.DataLoader(stream(), **options)
        iterator = iter(first)
        got = [next(iterator)["x"].tolist() for _ in range(taken)]
        state = first.state_dict()
        del iterator
        second = fastload.DataLoader(stream(), **options)
        second.load_state_dict(state)
        assert got + xs(second) == whole


@pytest.mark.filterwarnings("ignore:num_workers=2, but with seed= one worker reads")
def test_a_seeded_stream_does_not_depend_on_workers_or_ranks() -> None:
    expected = list(range(100))
    for num_workers in (0, 2):
        loader = fastload.DataLoader(stream(), batch_size=10, num_workers=num_workers, seed=7)
        assert flat(xs(loader)) == expected
    steps = [
        xs(fastload.DataLoader(stream(), batch_size=5, seed=7, num_replicas=2, rank=rank))
        for rank in range(2)
    ]
    assert [n for pair in zip(*steps, strict=True) for batch in pair for n in batch] == expected
