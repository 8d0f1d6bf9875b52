"""``ImageFolder`` finds what torchvision's finds, and gives what it gives."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

from PIL import Image

import fastload
from fastload import CorruptDataError, ImageFolder
from tests.datasets.pictures import encoded, jpeg, picture
from tests.vision import torchvision


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders inside of folders, names that sort in odd ways, files that are no images."""
    return write(
        tmp_path,
        {
            "dog/10.jpg": jpeg(number=0),
            "dog/9.JPEG": jpeg(number=1),
            "dog/old/1.png": encoded(picture(40, 48, 2), "PNG"),
            "dog/old/notes.txt": b"no image",
            "cat/b.webp": encoded(picture(40, 48, 3), "WEBP"),
            "cat/a b.tif": encoded(picture(40, 48, 4), "TIFF"),
            "cat/.hidden.jpg": jpeg(number=5),
            "Zebra/ü.bmp": encoded(picture(40, 48, 6), "BMP"),
            "Zebra/more/deep/x.ppm": encoded(picture(40, 48, 7), "PPM"),
            "readme.md": b"in no class",
        },
    )


def test_samples_are_those_of_torchvision(root: Path) -> None:
    folder = torchvision("datasets")
    (root / "linked").symlink_to(root / "dog" / "old")
    (root / "Zebra" / "again").symlink_to(root / "cat")
    theirs, ours = folder.ImageFolder(root), ImageFolder(root)
    assert len(ours) == len(theirs) == 12
    for name in ("classes", "class_to_idx", "samples", "targets", "imgs", "extensions"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for index in range(len(ours)):
        (image, label), (usual, usual_label) = ours[index], theirs[index]
        assert label == usual_label
        assert image.dtype == torch.uint8
        assert (image.permute(1, 2, 0).numpy() == np.array(usual)).all(), ours.samples[index]
    assert ours[-1][1] == theirs[-1][1]
    with pytest.raises(IndexError):
        ours[12]


def test_a_transform_gets_what_torchvisions_gets(root: Path) -> None:
    folder = torchvision("datasets")
    transforms, v2 = torchvision("transforms"), torchvision("transforms.v2")

    options = {"target_transform": str}
    old = transforms.Compose(
        [transforms.RandomResizedCrop(24), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    new = v2.Compose(
        [v2.ToImage(), v2.RandomResizedCrop(24), v2.ToDtype(torch.float32, scale=True)]
    )
    for transform in (old, new, lambda image: (image.mode, image.size, type(image))):
        theirs = folder.ImageFolder(root, transform, **options)
        ours = ImageFolder(root, transform, **options)
        for index in range(len(ours)):
            torch.manual_seed(index)
            (image, label), state = ours[index], torch.get_rng_state()
            torch.manual_seed(index)
            usual, usual_label = theirs[index]
            assert torch.equal(state, torch.get_rng_state())
            assert label == usual_label
            assert type(label) is str
            if isinstance(image, torch.Tensor):
                assert torch.equal(image, usual)
            else:
                assert image == usual


def test_loaders_and_validity_are_those_of_torchvision(root: Path) -> None:
    folder = torchvision("datasets")

    def is_valid(path: str) -> bool:
        return path.endswith(("g", "f", "m", "p"))

    for options in (
        {"is_valid_file": is_valid},
        {"loader": lambda path: path},
        {"loader": len, "transform": str},
        {"is_valid_file": lambda path: "dog" in path, "allow_empty": True},
    ):
        theirs, ours = folder.ImageFolder(root, **options), ImageFolder(root, **options)
        assert ours.samples == theirs.samples
        assert ours.extensions == theirs.extensions
        if "loader" in options:
            assert [*ours] == [*theirs]


def test_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    """The same kinds of error as torchvision's, with the cause and the cure."""
    with pytest.raises(FileNotFoundError):
        ImageFolder(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="there is no class folder in"):
        ImageFolder(tmp_path)
    write(tmp_path, {"cat/a.jpg": jpeg(), "dog/a.txt": b"", "eel/b": b""})
    with pytest.raises(FileNotFoundError, match=r"\.jpg, .*for the classes dog, eel in .*allow_em"):
        ImageFolder(tmp_path)
    assert len(ImageFolder(tmp_path, allow_empty=True)) == 1
    assert ImageFolder(tmp_path, extensions=("g", "t", "b")).classes == ["cat", "dog", "eel"]
    assert len(ImageFolder(tmp_path, extensions="jpg", allow_empty=True)) == 1
    with pytest.raises(ValueError, match="exactly one"):
        ImageFolder.make_dataset(tmp_path, {"cat": 0})
    with pytest.raises(ValueError, match="at least one class"):
        ImageFolder.make_dataset(tmp_path, {}, extensions=".jpg")
    for size in (0, (3,), (3, -1), (3.0, 4), True):
        with pytest.raises(ValueError, match="size is a height and a width"):
            ImageFolder(tmp_path, size=size, allow_empty=True)
    with pytest.raises(ValueError, match="loader="):
        ImageFolder(tmp_path, loader=str, size=8, allow_empty=True)


def test_classes_and_samples_can_be_others(root: Path) -> None:
    class Dogs(ImageFolder):
        def find_classes(self, directory):
            return ["dog"], {"dog": 7}

    class Reversed(ImageFolder):
        @staticmethod
        def make_dataset(*args, **options):
            return ImageFolder.make_dataset(*args, **options)[::-1]

    assert Dogs(root).targets == [7, 7, 7]
    assert Reversed(root).samples == ImageFolder(root).samples[::-1]


def test_a_size_is_given_to_each_image(root: Path) -> None:
    for size, shape in ((24, (3, 24, 24)), ((10, 30), (3, 10, 30))):
        dataset = ImageFolder(root, size=size)
        assert {tuple(image.shape) for image, _ in dataset} == {shape}
        assert ImageFolder(root, lambda image: image.size, size=size)[0][0] == shape[:0:-1]


@pytest.mark.parametrize("takes", ["pil", "array", "tensor", "text"])
def test_a_transform_gets_what_it_declares(root: Path, takes: str) -> None:
    class Transform:
        def __call__(self, image):
            return image

    transform = Transform()
    transform.takes = takes
    dataset = ImageFolder(root, transform)
    plain = ImageFolder(root)[0][0]
    if takes == "text":
        with pytest.raises(ValueError, match=r"takes of .* is one of .*'text'"):
            dataset[0]
        return
    image = dataset[0][0]
    assert isinstance(
        image, {"pil": Image.Image, "array": np.ndarray, "tensor": torch.Tensor}[takes]
    )
    if takes == "tensor":
        assert torch.equal(image, plain)
    else:
        assert (np.asarray(image) == plain.permute(1, 2, 0).numpy()).all()


def test_transforms_of_albumentations(root: Path) -> None:
    albumentations = pytest.importorskip("albumentations")
    from albumentations.pytorch import ToTensorV2

    flip = albumentations.HorizontalFlip(p=1)
    plain = ImageFolder(root)[0][0]
    assert (ImageFolder(root, flip)[0][0] == plain.permute(1, 2, 0).numpy()[:, ::-1]).all()
    both = albumentations.Compose([flip, ToTensorV2()])
    assert torch.equal(ImageFolder(root, both)[0][0], plain.flip(2))


def test_damage_names_the_file(root: Path) -> None:
    path = root / "dog" / "10.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    dataset = ImageFolder(root)
    index = [sample for sample, _ in dataset.samples].index(str(path))
    with pytest.raises(CorruptDataError, match=r"dog/10\.jpg .* can't be decoded") as caught:
        dataset[index]
    assert caught.value.path == str(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"dog/10\.jpg"):
        dataset[index]


def test_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path, {"cat/a.jpg": jpeg(40, 48, exif=exif)})
    assert ImageFolder(tmp_path)[0][0].shape == (3, 40, 48)
    assert ImageFolder(tmp_path, apply_exif_orientation=True)[0][0].shape == (3, 48, 40)


def test_a_folder_in_the_home_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision's."""
    monkeypatch.setenv("HOME", str(root.parent))
    dataset = ImageFolder(f"~/{root.name}")
    assert dataset.samples == ImageFolder(root).samples


def test_it_travels(root: Path) -> None:
    dataset = ImageFolder(root, size=20)
    again = pickle.loads(pickle.dumps(dataset))
    assert again.samples == dataset.samples
    assert torch.equal(again[0][0], dataset[0][0])
    assert repr(dataset) == f"ImageFolder('{root}': 8 images, 3 classes)"


def test_without_simplejpeg_it_warns_and_works(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ImageFolder(root)[2][0]
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.warns(RuntimeWarning, match=r'pip install "fastload\[images\]"'):
        dataset = ImageFolder(root)
    assert (dataset[2][0].int() - expected.int()).abs().max() <= 4


def test_it_is_exported() -> None:
    assert fastload.ImageFolder is ImageFolder
    assert issubclass(ImageFolder, torch.utils.data.Dataset)
