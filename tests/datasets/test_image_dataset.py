"""``ImageDataset`` reads encoded images from lists and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

import fastload
from fastload import CorruptDataError, ImageDataset
from fastload.datasets import write_arrow, write_parquet
from tests.datasets.pictures import by_pillow, encoded, jpeg, picture

COUNT = 12
FILES = [jpeg(40, 48, number) for number in range(COUNT)]
FILES[3] = encoded(picture(40, 48, 3), "PNG")
LABELS = [number % 5 for number in range(COUNT)]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / f"{number}.img" for number in range(COUNT)]
    for path, content in zip(made, FILES, strict=True):
        path.write_bytes(content)
    return made


def structs(paths: list[Path]) -> list[dict[str, Any]]:
    """As Hugging Face stores images: bytes, a path, or both."""
    return [
        {"bytes": None if number % 3 == 0 else FILES[number], "path": str(paths[number])}
        if number % 3 < 2
        else {"bytes": FILES[number], "path": None}
        for number in range(COUNT)
    ]


def check(dataset: ImageDataset, labels: list[Any] | None = LABELS) -> None:
    """By index, by torch's loader and by ours with and without workers."""
    assert len(dataset) == COUNT
    pixels = [torch.from_numpy(by_pillow(content)).permute(2, 0, 1) for content in FILES]
    for index in (0, 3, 5, COUNT - 1):
        sample = dataset[index]
        image = sample if labels is None else sample[0]
        assert torch.equal(image, pixels[index])
        assert labels is None or (sample[1] == labels[index] and type(sample[1]) is type(labels[0]))
    for loader_class, workers in (
        (torch.utils.data.DataLoader, 0),
        (fastload.DataLoader, 0),
        (fastload.DataLoader, 1),
    ):
        loader = loader_class(dataset, batch_size=8, num_workers=workers)
        batches = list(loader)
        images = batches if labels is None else [batch[0] for batch in batches]
        assert torch.equal(torch.cat(images), torch.stack(pixels))
        if labels is not None:
            found = [batch[1] for batch in batches]
            if isinstance(labels[0], str):
                assert [label for batch in found for label in batch] == labels
            else:
                assert torch.cat(found).tolist() == labels


@pytest.mark.parametrize("form", ["paths", "names", "bytes", "structs", "tuple", "views"])
def test_lists(form: str, paths: list[Path]) -> None:
    images: Any = {
        "paths": paths,
        "names": list(map(str, paths)),
        "bytes": FILES,
        "structs": structs(paths),
        "tuple": tuple(FILES),
        "views": list(map(memoryview, FILES)),
    }[form]
    check(ImageDataset(images, LABELS))
    if form != "views":
        check(ImageDataset(images), None)


def test_labels_of_every_kind() -> None:
    check(ImageDataset(FILES, np.array(LABELS)))
    check(ImageDataset(FILES, torch.tensor(LABELS)))
    check(ImageDataset(FILES, [str(label) for label in LABELS]), [str(label) for label in LABELS])
    check(
        ImageDataset(FILES, LABELS, target_transform=lambda x: x + 0.5), [x + 0.5 for x in LABELS]
    )


def test_a_label_may_be_several_values(tmp_path: Path) -> None:
    """Of tensors, arrays and columns of lists."""
    labels = torch.arange(3 * COUNT).reshape(COUNT, 3)
    table = pa.table({"image": FILES, "label": labels.tolist()})
    pq.write_table(table, tmp_path / "table.parquet", row_group_size=5)
    for dataset in (
        ImageDataset(FILES, labels),
        ImageDataset(FILES, labels.numpy()),
        ImageDataset(FILES, labels.tolist(), target_transform=torch.tensor),
        ImageDataset(tmp_path / "table.parquet", "label"),
    ):
        for workers in (0, 1):
            loader = fastload.DataLoader(dataset, batch_size=5, num_workers=workers)
            assert torch.equal(torch.cat([batch for _, batch in loader]), labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_labels_keep_the_dtype_of_floats(dtype: torch.dtype) -> None:
    """As a dataset of the user's own that returns them."""
    labels = torch.linspace(0, 1, COUNT, dtype=dtype)
    for given in (labels, labels.numpy()):
        for _, batch in fastload.DataLoader(ImageDataset(FILES, given), batch_size=COUNT):
            assert batch.dtype is dtype
            assert torch.equal(batch, labels)


def test_of_a_series_the_order_counts() -> None:
    """Not the numbers in its index, which are others once rows were selected or shuffled."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": FILES, "label": LABELS}, index=range(COUNT)[::-1])
    check(ImageDataset(frame["image"], frame["label"]))
    check(ImageDataset(FILES, frame["label"].set_axis(range(100, 100 + COUNT))))
    polars = pytest.importorskip("polars")
    check(ImageDataset(polars.Series(FILES), polars.Series(LABELS)))
    check(ImageDataset(FILES, pa.array(LABELS)))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), "structs", pa.string()])
@pytest.mark.parametrize("form", ["parquet", "own parquet", "arrow", "table"])
def test_tables(kind: Any, form: str, paths: list[Path], tmp_path: Path) -> None:
    if kind == "structs":
        images = pa.array(structs(paths))
    else:
        images = pa.array(list(map(str, paths)) if kind == pa.string() else FILES, kind)
    table = pa.table({"id": range(COUNT), "picture": images, "class": LABELS})
    source: Any = table
    if form != "table":
        source = tmp_path / f"table.{form.removeprefix('own ')}"
        if form == "parquet":
            pq.write_table(table, source, row_group_size=5)
        elif form == "arrow":
            write_arrow(table, source, rows_per_batch=5)
        else:
            write_parquet(table, source, rows_per_group=5)
    check(ImageDataset(source, "class", column="picture"))
    check(ImageDataset(str(source) if form != "table" else source, column="picture"), None)
    if "parquet" in form:
        assert ImageDataset(source, column="picture").block_lengths == [5, 5, 2]
        shuffled = fastload.BlockShuffleSampler(ImageDataset(source, column="picture"), window=2)
        assert sorted(shuffled) == list(range(COUNT))


def test_columns_and_frames() -> None:
    check(ImageDataset(pa.array(FILES), LABELS))
    check(ImageDataset(pa.chunked_array([FILES[:5], FILES[5:]]), LABELS))
    polars = pytest.importorskip("polars")
    check(ImageDataset(polars.DataFrame({"image": FILES, "label": LABELS}), "label"))


def test_relative_paths(paths: list[Path], tmp_path: Path) -> None:
    names = [path.name for path in paths]
    check(ImageDataset(names, LABELS, root=tmp_path))
    check(ImageDataset([{"bytes": None, "path": name} for name in names], LABELS, root=tmp_path))


def test_sizes_and_transforms(paths: list[Path]) -> None:
    dataset = ImageDataset(paths, LABELS, size=(20, 30))
    (images, _), *_ = fastload.DataLoader(dataset, batch_size=COUNT)
    assert images.shape == (COUNT, 3, 20, 30)
    assert ImageDataset(paths, transform=lambda image: image.size)[0] == (48, 40)


def test_what_is_wrong(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are 2 labels for 12 images"):
        ImageDataset(FILES, [1, 2])
    with pytest.raises(ValueError, match=r"labels='label' names a column, but images are no table"):
        ImageDataset(FILES, "label")
    with pytest.raises(ValueError, match=r"of images in a folder ImageFolder makes a dataset"):
        ImageDataset(tmp_path)
    with pytest.raises(TypeError, match="image 0 is a int; expected a path, bytes"):
        ImageDataset([7])[0]
    with pytest.raises(TypeError, match="image 0 is a NoneType"):
        ImageDataset([{"bytes": None, "path": None}])[0]
    table = pa.table({"image": [FILES[0], None], "label": [1, None]})
    with pytest.raises(ValueError, match="row 1 of column 'image' is null"):
        ImageDataset(table)[1]
    with pytest.raises(ValueError, match="row 1 of column 'label' is null"):
        ImageDataset(pa.table({"image": FILES[:2], "label": [1, None]}), "label")[1]
    with pytest.raises(ValueError, match="nothing"):
        ImageDataset(table, column="nothing")
    with pytest.raises(CorruptDataError, match="image 1 "):
        ImageDataset([FILES[0], FILES[1][:-100]])[1]
    with pytest.raises(CorruptDataError, match=r"a/b\.jpg "):
        ImageDataset([{"bytes": FILES[1][:-100], "path": "a/b.jpg"}])[0]


def test_it_says_what_it_is() -> None:
    assert repr(ImageDataset(FILES, LABELS)) == "ImageDataset(12 images, with labels)"
    assert repr(ImageDataset(FILES)) == "ImageDataset(12 images)"
