"""Crops, sizes and mirror images are those of torchvision, draw by draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

from fastload.transforms import (
    CenterCrop,
    Compose,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from tests.datasets.pictures import picture
from tests.rounds import rounds
from tests.vision import torchvision

SHAPES = [(40, 48), (48, 40), (30, 200), (200, 30), (1, 1), (2, 90)]


def tensor(height: int, width: int) -> torch.Tensor:
    """As it comes of a decoder: channels last in memory."""
    return torch.from_numpy(np.array(picture(height, width))).permute(2, 0, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"scale": (0.5, 2.0)}, {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}, {"ratio": (0.1, 0.2)}],
)
def test_crops_are_drawn_as_torchvision_draws(shape: Any, options: dict[str, Any]) -> None:
    """Equal seeds: equal crops, and the generator is left in the same state."""
    usual = torchvision("transforms").RandomResizedCrop(24, **options)
    image, crop = tensor(*shape), RandomResizedCrop(24, **options)
    for seed in range(rounds(40, 1000)):
        torch.manual_seed(seed)
        expected = usual.get_params(image, usual.scale, usual.ratio), torch.get_rng_state()
        torch.manual_seed(seed)
        assert crop.draw(*shape) == expected[0]
        assert torch.equal(torch.get_rng_state(), expected[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_are_those_of_torchvision_on_tensors(shape: Any) -> None:
    """And at most 2 of 255 from Pillow's, to which its transforms of PIL images come."""
    v2 = torchvision("transforms.v2")
    pairs = [
        (RandomResizedCrop((24, 30)), v2.RandomResizedCrop((24, 30), antialias=True)),
        (RandomHorizontalFlip(), v2.RandomHorizontalFlip()),
        (Resize(20), v2.Resize(20, antialias=True)),
        (Resize((20, 31)), v2.Resize((20, 31), antialias=True)),
        (CenterCrop(20), v2.CenterCrop(20)),
        (CenterCrop((61, 60)), v2.CenterCrop((61, 60))),
    ]
    for ours, theirs in pairs:
        for image in (tensor(*shape), tensor(*shape).contiguous()):
            for seed in range(5):
                torch.manual_seed(seed)
                found = ours(image)
                torch.manual_seed(seed)
                expected = theirs(image)
                assert found.dtype == torch.uint8
                assert torch.equal(found, expected), ours
        torch.manual_seed(1)
        found = ours(picture(*shape))
        torch.manual_seed(1)
        by_pillow = torch.from_numpy(np.array(theirs(picture(*shape)))).permute(2, 0, 1)
        assert (found.int() - by_pillow.int()).abs().max() <= 2, ours


@pytest.mark.parametrize(
    "transform",
    [Resize(20), CenterCrop(20), CenterCrop(90), RandomResizedCrop(20), RandomHorizontalFlip(1.0)],
)
def test_every_form_of_an_image(transform: Any) -> None:
    image = picture(40, 48)
    pixels = np.array(image)
    found = []
    frozen = pixels.copy()
    frozen.flags.writeable = False
    for form in (image, pixels, frozen, tensor(40, 48)):
        torch.manual_seed(0)
        found.append(transform(form))
    assert all(torch.equal(found[0], each) for each in found)
    assert (pixels == np.array(image)).all()
    for grey in (pixels[:, :, 0], image.convert("L"), tensor(40, 48)[:1]):
        assert len(transform(grey)) == 1
    assert transform(tensor(40, 48).float()).dtype is torch.float32
    for wrong in (torch.zeros(2, 3, 4, 4), np.zeros((2, 3, 4, 4)), "image"):
        with pytest.raises(TypeError, match="an image is a"):
            transform(wrong)


def test_flips_are_as_likely_as_asked() -> None:
    image = torch.arange(2)[None, None]
    torch.manual_seed(0)
    flipped = sum(int(RandomHorizontalFlip(0.3)(image)[0, 0, 0]) for _ in range(2000))
    assert 500 < flipped < 700
    assert RandomHorizontalFlip(0.0)(image) is image


def test_arguments() -> None:
    for kind in (Resize, CenterCrop, RandomResizedCrop):
        for size in (0, -3, (1, 2, 3), (0, 1), (1.5, 2)):
            with pytest.raises(ValueError, match="size is one or two positive integers"):
                kind(size)
    for options in ({"scale": (0.0, 1.0)}, {"ratio": (2.0, 1.0)}, {"scale": (-1.0, 1.0)}):
        with pytest.raises(ValueError, match="range of positive numbers"):
            RandomResizedCrop(2, **options)
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="probability"):
            RandomHorizontalFlip(p)


def test_they_say_what_they_are() -> None:
    both = Compose(
        [RandomResizedCrop(24, ratio=(0.75, 1.3)), RandomHorizontalFlip(), Resize(3), CenterCrop(2)]
    )
    assert repr(both) == (
        "Compose([RandomResizedCrop((24, 24), scale=(0.08, 1.0), ratio=(0.75, 1.3)), "
        "RandomHorizontalFlip(0.5), Resize(3), CenterCrop((2, 2))])"
    )
