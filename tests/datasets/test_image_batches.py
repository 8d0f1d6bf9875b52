"""Batches of images are decoded where they lie, and are those of reading sample by sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

import fastload
from fastload import ArrayDataset, CorruptDataError, ImageDataset, ImageFolder
from fastload.datasets.gather import gatherer
from tests.contract.same import assert_same
from tests.datasets.pictures import encoded, jpeg, picture
from tests.datasets.test_image_folder import write

COUNT = 26
SIZE = (40, 48)


def by_samples(dataset: Any, batch_size: int = 8) -> list[Any]:
    """The batches of torch's loader."""
    return list(torch.utils.data.DataLoader(dataset, batch_size=batch_size))


def is_channels_last(images: torch.Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


@pytest.fixture(scope="module")
def root(tmp_path_factory: Any) -> Path:
    files = {f"{'ab'[i % 2]}/{i:02}.jpg": jpeg(*SIZE, i) for i in range(COUNT)}
    files["a/00.jpg"] = encoded(picture(*SIZE), "PNG")
    return write(tmp_path_factory.mktemp("images"), files)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: Any) -> Path:
    """Images of different sizes."""
    files = {f"a/{i:02}.jpg": jpeg(30 + i % 3, 40, i) for i in range(COUNT)}
    return write(tmp_path_factory.mktemp("mixed"), files)


WAYS: list[dict[str, Any]] = [
    {},
    {"num_workers": 2},
    {"num_workers": 2, "worker_method": "thread"},
    {"num_workers": 2, "multiprocessing_context": "forkserver"},
]


def with_texts(folder: ImageFolder) -> ImageDataset:
    return ImageDataset([path for path, _ in folder.samples], list(map(str, folder.targets)))


KINDS = {
    "folder": ImageFolder,
    "sized": lambda root: ImageFolder(root, size=(20, 30)),
    "subset": lambda root: Subset(ImageFolder(root), range(COUNT - 1, 2, -2)),
    "both": lambda root: ConcatDataset([ImageFolder(root), ImageFolder(root)]),
    "stacked": lambda root: StackDataset(ImageFolder(root), TensorDataset(torch.arange(COUNT))),
    "unlabelled": lambda root: ImageDataset([path for path, _ in ImageFolder(root).samples]),
    "texts": lambda root: with_texts(ImageFolder(root)),
    "texts twice": lambda root: ConcatDataset([KINDS["texts"](root)] * 2),
    "unlabelled twice": lambda root: ConcatDataset([KINDS["unlabelled"](root)] * 2),
}


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_torch(root: Path, kind: str, options: dict[str, Any]) -> None:
    dataset = KINDS[kind](root)
    assert gatherer(dataset) is not None
    assert_same(list(fastload.DataLoader(dataset, batch_size=8, **options)), by_samples(dataset))


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_they_are_decoded_in_place(root: Path, options: dict[str, Any]) -> None:
    """So they are in channels-last format, which stacked samples are not in a slot."""
    for images, _ in fastload.DataLoader(ImageFolder(root), batch_size=8, **options):
        assert is_channels_last(images)
        assert images.shape[1:] == (3, *SIZE)


@pytest.mark.parametrize("workers", [0, 2])
def test_sizes_may_differ_from_batch_to_batch(mixed: Path, workers: int) -> None:
    """One by one, as with torch, if they differ inside of one."""
    dataset = ImageFolder(mixed)
    order = sorted(range(COUNT), key=lambda index: index % 3)
    same = [order[:6], order[9:15], order[-6:]]
    loader = fastload.DataLoader(dataset, batch_sampler=same, num_workers=workers)
    assert [tuple(images.shape[2:]) for images, _ in loader] == [(30, 40), (31, 40), (32, 40)]
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        list(fastload.DataLoader(dataset, batch_size=4, num_workers=workers))
    sized = ImageFolder(mixed, size=(16, 24))
    loader = fastload.DataLoader(sized, batch_size=4, num_workers=workers)
    assert_same(list(loader), by_samples(sized, 4))


@pytest.mark.parametrize("options", WAYS[:3], ids=str)
def test_damage_is_as_sample_by_sample(tmp_path: Path, options: dict[str, Any]) -> None:
    files = {f"a/{i:02}.jpg": jpeg(*SIZE, i) for i in range(12)}
    files["a/05.jpg"] = files["a/05.jpg"][:-99]
    files["a/07.jpg"] = b""
    dataset = ImageFolder(write(tmp_path, files))
    with pytest.raises(CorruptDataError, match=r"05\.jpg") as caught:
        list(fastload.DataLoader(dataset, batch_size=4, **options))
    if hasattr(caught.value, "__notes__"):
        assert "dataset index 5" in "".join(caught.value.__notes__)
    loader = fastload.DataLoader(dataset, batch_size=4, on_error="skip", **options)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [4, 2, 4]
    assert [skipped.index for skipped in loader.stats().skipped] == [5, 7]
    whole = by_samples(Subset(dataset, [4, 6]), 2)
    assert_same(batches[1], whole[0])
    assert is_channels_last(batches[2][0])

    def stand_in(_: Exception, index: int) -> Any:
        return dataset[index - 1 if index == 5 else 8]

    loader = fastload.DataLoader(dataset, batch_size=4, on_error=stand_in, **options)
    assert_same(list(loader)[1], by_samples(Subset(dataset, [4, 4, 6, 8]), 4)[0])


@pytest.mark.parametrize("index", [-1, COUNT])
def test_odd_indices_are_the_datasets(root: Path, index: int) -> None:
    loader = fastload.DataLoader(ImageFolder(root), batch_sampler=[[0, index]])
    if index < 0:
        assert_same(list(loader), by_samples(Subset(ImageFolder(root), [0, -1]), 2))
    else:
        with pytest.raises(IndexError):
            list(loader)


def test_no_step_of_the_users_is_left_out(root: Path) -> None:
    """Transforms, loaders and classes of their own, also those that come later."""

    class Doubled(ImageFolder):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, 2 * label + 1

    class Other(ImageFolder):
        def _encoded(self, index):
            return super()._encoded(0)

    for kind in (Doubled, Other):
        assert gatherer(kind(root)) is None
        loader = fastload.DataLoader(kind(root), batch_size=8)
        assert_same(list(loader), by_samples(kind(root)))
    dataset = ImageFolder(root)
    loader = fastload.DataLoader(dataset, batch_size=8)
    first = next(iter(loader))
    dataset.transform = lambda image: image.size[0]
    assert next(iter(loader))[0].tolist() == [48] * 8
    dataset.transform, dataset.target_transform = None, str
    assert type(next(iter(loader))[1][0]) is str
    dataset.target_transform, dataset.loader = None, lambda _: torch.zeros(2)
    assert next(iter(loader))[0].shape == (8, 2)
    dataset.loader = None
    assert_same(next(iter(loader)), first)
    loader = fastload.DataLoader(dataset, batch_size=4, collate_fn=lambda samples: samples)
    assert [image.shape for image, _ in next(iter(loader))] == [(3, *SIZE)] * 4


def test_a_replaced_method_is_called(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFolder, "__getitem__", lambda self, index: index)
    loader = fastload.DataLoader(ImageFolder(root), batch_size=4)
    assert next(iter(loader)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 2},
        {"num_workers": 3, "workers_per_batch": 2},
        {"num_workers": 2, "worker_method": "thread"},
        {"num_workers": 1, "concurrent_samples": 4},
    ],
    ids=str,
)
def test_the_seeded_stream_is_one(root: Path, options: dict[str, Any]) -> None:
    dataset = ImageFolder(root)
    alone = list(fastload.DataLoader(dataset, batch_size=8, shuffle=True, seed=3))
    with fastload.DataLoader(dataset, batch_size=8, shuffle=True, seed=3, **options) as loader:
        assert_same(list(loader), alone)
    with fastload.DataLoader(dataset, batch_size=8, shuffle=True, seed=3, **options) as loader:
        iterator = iter(loader)
        for _ in range(2):
            next(iterator)
        state = loader.state_dict()
    again = fastload.DataLoader(dataset, batch_size=4, shuffle=True, seed=3)
    again.load_state_dict(state)
    rest = torch.cat([images for images, _ in again])
    assert torch.equal(rest, torch.cat([images for images, _ in alone[2:]]))


def test_many_at_a_time_are_not_read_in_one_piece(root: Path) -> None:
    """``concurrent_samples`` is for files that are waited for."""
    assert gatherer(ImageFolder(root), is_concurrent=True) is None
    assert gatherer(StackDataset(ImageFolder(root)), is_concurrent=True) is None
    assert gatherer(ArrayDataset(np.zeros(4)), is_concurrent=True) is not None
    loader = fastload.DataLoader(ImageFolder(root), batch_size=8, concurrent_samples=4)
    assert_same(list(loader), by_samples(ImageFolder(root)))


def test_a_batch_that_does_not_fit_into_its_slot(root: Path) -> None:
    """Large batches behind small ones, and memory that allows none."""
    dataset = ImageFolder(root, size=(200, 300))
    sizes = [[0], [1], [2, 3], list(range(COUNT)), [4], list(range(COUNT))]
    expected = list(torch.utils.data.DataLoader(dataset, batch_sampler=sizes))
    for limit in (None, 1 << 20):
        loader = fastload.DataLoader(
            dataset, batch_sampler=sizes, num_workers=2, memory_limit=limit
        )
        assert_same(list(loader), expected)


def test_ranks_share_the_stream(root: Path) -> None:
    options: dict[str, Any] = {"shuffle": True, "seed": 3, "drop_last": True}
    alone = list(fastload.DataLoader(ImageFolder(root), batch_size=8, **options))
    ranks = [
        fastload.DataLoader(
            ImageFolder(root), batch_size=4, num_replicas=2, rank=rank, num_workers=1, **options
        )
        for rank in range(2)
    ]
    for (images, labels), (first, first_labels), (second, second_labels) in zip(
        alone, *ranks, strict=True
    ):
        assert torch.equal(images, torch.cat([first, second]))
        assert torch.equal(labels, torch.cat([first_labels, second_labels]))


@pytest.mark.parametrize("labels", [["cat"], [[0, 1]], [{"a": 1}], np.ones((1, 3)), [0.5]], ids=str)
def test_labels_of_two_datasets_in_a_batch(labels: Any) -> None:
    """Those that do not go together are torch's to refuse, in its own words."""
    numbers = ImageDataset([jpeg(*SIZE, number) for number in range(4)], labels=[1, 2, 3, 4])
    both = ConcatDataset([numbers, ImageDataset([jpeg(*SIZE, 9)], labels=labels)])
    for order in ([0, 4], [4, 0]):
        results = []
        for loader_class in (torch.utils.data.DataLoader, fastload.DataLoader):
            try:
                ((_, found),) = loader_class(both, 2, sampler=order)
                results.append(str(found))
            except Exception as error:
                results.append(repr(error))
        assert results[0] == results[1]
