"""Floats and normalized values are those of torchvision, and chains take what their first takes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

import fastload
from fastload import ImageFolder
from fastload.transforms import (
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToFloat,
)
from tests.datasets.pictures import jpeg, picture
from tests.datasets.test_image_folder import write
from tests.vision import torchvision

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def test_values_are_those_of_torchvision() -> None:
    usual = torchvision("transforms")
    image = picture(40, 48)
    expected = usual.ToTensor()(image)
    found = ToFloat()(image)
    assert found.is_contiguous()
    assert torch.equal(found, expected)
    normalized = usual.Normalize(MEAN, STD)(expected)
    assert torch.equal(Normalize(MEAN, STD)(expected), normalized)
    assert torch.equal(Normalize(MEAN, STD)(image), normalized)
    assert torch.equal(ToFloat()(expected.double()), expected)
    assert torch.equal(expected, usual.ToTensor()(image))


def test_what_is_wrong() -> None:
    with pytest.raises(TypeError, match=r"uint8 or floats, but got torch\.int64"):
        ToFloat()(torch.zeros(3, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="a number for each channel"):
        Normalize([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="std no 0"):
        Normalize([1.0], [0.0])
    with pytest.raises(ValueError, match="has 3 channels, but the image has 1"):
        Normalize(MEAN, STD)(torch.zeros(1, 4, 4))


def test_a_chain_takes_what_its_first_takes() -> None:
    def by_array(image):
        return type(image)

    by_array.takes = "array"
    assert Compose([ToFloat(), str]).takes == "tensor"
    assert Compose([str, ToFloat()]).takes == "pil"
    assert Compose([Compose([by_array]), str]).takes == "array"
    assert Compose([]).takes == "tensor"


AUGMENTATION = Compose([RandomResizedCrop(24), RandomHorizontalFlip(), Normalize(MEAN, STD)])


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    files = {f"{'ab'[i % 2]}/{i:02}.jpg": jpeg(40, 48, i) for i in range(20)}
    return write(tmp_path_factory.mktemp("images"), files)


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 2},
        {"num_workers": 3, "batch_size": 4},
        {"num_workers": 2, "workers_per_batch": 2},
        {"num_workers": 2, "multiprocessing_context": "spawn"},
    ],
    ids=str,
)
def test_the_seeded_stream_holds(root: Path, options: dict) -> None:
    """Augmentation included: whichever worker draws, and whatever the size of batches."""
    dataset = ImageFolder(root, AUGMENTATION)
    alone = list(fastload.DataLoader(dataset, batch_size=8, shuffle=True, seed=3))
    options = {"batch_size": 8, **options}
    with fastload.DataLoader(dataset, shuffle=True, seed=3, **options) as loader:
        found = list(loader)
    for field in (0, 1):
        assert torch.equal(
            torch.cat([batch[field] for batch in found]),
            torch.cat([batch[field] for batch in alone]),
        )


def test_workers_draw_as_torchs_workers_do(root: Path) -> None:
    dataset = ImageFolder(root, AUGMENTATION)
    made = []
    for loader_class in (torch.utils.data.DataLoader, fastload.DataLoader):
        torch.manual_seed(0)
        loader = loader_class(dataset, batch_size=4, shuffle=True, num_workers=2)
        made.append([images for images, _ in loader])
    assert all(map(torch.equal, *made))
    assert made[0][0].shape == (4, 3, 24, 24)
    assert made[0][0].dtype is torch.float32


def test_they_travel() -> None:
    again = pickle.loads(pickle.dumps(AUGMENTATION))
    torch.manual_seed(0)
    one = AUGMENTATION(picture(40, 48))
    torch.manual_seed(0)
    assert torch.equal(one, again(np.array(picture(40, 48))))
