"""A folder of images in which each subfolder is a class, as torchvision's ``ImageFolder``.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an index.
Gives: the image, decoded, and the number of its class.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastload.datasets.image_decoding import Encoded
from fastload.datasets.image_samples import EncodedImages, Size, read_file

IMAGE_EXTENSIONS = (*(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),)
"""The extensions that torchvision's ``ImageFolder`` looks for."""

Samples = list[tuple[str, int]]


class ImageFolder(EncodedImages):
    """Images in a folder for each class: ``root/dog/1.jpg``, ``root/dog/old/2.png``, ``root/cat``.

    Classes, their numbers and the order of samples are those of torchvision's ``ImageFolder``,
    which need not be installed. Without a ``transform`` a sample is a uint8 tensor ``(3, height,
    width)`` and the number of its class. fastload's loader decodes batches of one size straight
    into shared memory: images ``(batch, 3, height, width)`` in channels-last memory format.

    Args:
        root: The folder.
        transform: Called with each image; what it returns is the sample's image. It gets a PIL
            image in RGB, unless it has an attribute ``takes``: ``"array"`` for a uint8 array
            ``(height, width, 3)``, ``"tensor"`` for a uint8 tensor ``(3, height, width)``, as
            those in ``fastload.transforms`` have. Transforms of albumentations are known.
        target_transform: Called with the number of the class.
        loader: Called with a path in the place of our decoder; what it returns goes to
            ``transform``, or is the sample's image.
        is_valid_file: Says whether a path is a sample, in the place of ``extensions``.
        allow_empty: Whether a class may have no file.
        size: Height and width, or one number for both, to which each image is resized when it is
            decoded (bilinear, antialiased, proportions not kept). JPEG files are decoded at a
            reduced scale where that is large enough.
        extensions: What the names of samples end with, in lower case.
        apply_exif_orientation: Turn photographs as their cameras were turned. torchvision's
            ``ImageFolder`` does not.

    Attributes:
        classes: Names of the classes, sorted.
        class_to_idx: Their numbers.
        samples: A list of pairs: path, number of the class. Also called ``imgs``.
        targets: The numbers of the classes of all samples.

    Raises:
        FileNotFoundError: ``root`` has no subfolder, or a class has no file.
        ValueError: ``size`` is not positive, or goes together with ``loader``.
        CorruptDataError: A file is damaged; when it is read.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> root = Path("/tmp/pets")
        >>> for number, name in enumerate(("cat", "dog", "dog")):
        ...     (root / name).mkdir(parents=True, exist_ok=True)
        ...     Image.new("RGB", (64, 48)).save(root / name / f"{number}.jpg")
        >>> dataset = ImageFolder(root)
        >>> image, label = dataset[1]
        >>> dataset.classes, len(dataset), image.shape, label
        (['cat', 'dog'], 3, torch.Size([3, 48, 64]), 1)
    """

    def __init__(
        self,
        root: str | Path,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        loader: Callable[[str], Any] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
        *,
        size: Size = None,
        extensions: str | Sequence[str] = IMAGE_EXTENSIONS,
        apply_exif_orientation: bool = False,
    ) -> None:
        super().__init__(transform, target_transform, size, apply_exif_orientation)
        if loader is not None and (self.size is not None or apply_exif_orientation):
            raise ValueError(
                "size and apply_exif_orientation are for our own decoder; a loader= makes the "
                "image itself, so let it, or a transform, do that"
            )
        self.root = root
        self.loader = loader
        self.extensions = None if is_valid_file is not None else extensions
        self.classes, self.class_to_idx = self.find_classes(root)
        self.samples = self.make_dataset(
            root, self.class_to_idx, self.extensions, is_valid_file, allow_empty
        )
        self.targets = [target for _, target in self.samples]
        self.imgs = self.samples

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the names of the classes and their numbers; a subclass may choose others.

        Raises:
            FileNotFoundError: There is none.
        """
        entries = os.scandir(Path(directory).expanduser())
        classes = sorted(entry.name for entry in entries if entry.is_dir())
        if not classes:
            raise FileNotFoundError(
                f"there is no class folder in {directory}: images lie in a folder for each class, "
                f"as in {Path(directory) / 'dog' / '1.jpg'}"
            )
        return classes, {name: number for number, name in enumerate(classes)}

    @staticmethod
    def make_dataset(
        directory: str | Path,
        class_to_idx: dict[str, int],
        extensions: str | Sequence[str] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> Samples:
        """Return path and class of all samples, in their order; a subclass may find others.

        Raises:
            ValueError: There are no classes, or not exactly one of ``extensions`` and
                ``is_valid_file``.
            FileNotFoundError: A class has no sample, and ``allow_empty`` is not set.
        """
        if not class_to_idx:
            raise ValueError("class_to_idx must have at least one class")
        if (extensions is None) == (is_valid_file is None):
            raise ValueError("give exactly one of extensions and is_valid_file")
        endings = (extensions,) if isinstance(extensions, str) else tuple(extensions or ())
        is_valid = is_valid_file or (lambda path: path.lower().endswith(endings))
        samples: Samples = []
        for name in sorted(class_to_idx):
            folder = Path(directory).expanduser() / name
            paths = _files_in(folder) if folder.is_dir() else []
            samples += [(path, class_to_idx[name]) for path in paths if is_valid(path)]
        with_samples = {number for _, number in samples}
        empty = sorted(name for name, each in class_to_idx.items() if each not in with_samples)
        if empty and not allow_empty:
            looked_for = f" with one of the extensions {', '.join(endings)}" if endings else ""
            raise FileNotFoundError(
                f"there is no file{looked_for} for the classes {', '.join(empty)} in {directory}; "
                "allow_empty=True takes them as they are"
            )
        return samples

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"ImageFolder({str(self.root)!r}: {len(self)} images, {len(self.classes)} classes)"

    def _is_plain(self) -> bool:
        return self.loader is None and super()._is_plain()

    def _image(self, index: int) -> Any:
        if self.loader is None:
            return super()._image(index)
        image = self.loader(self.samples[index][0])
        return image if self.transform is None else self.transform(image)

    def _encoded(self, index: int) -> tuple[Encoded, str]:
        path = self.samples[index][0]
        return read_file(path), path

    def _label(self, index: int) -> Any:
        return self.samples[index][1]


def _files_in(folder: Path) -> list[str]:
    """Return all files below a folder, links followed: those of each folder together, sorted."""
    return [
        os.path.join(inside, name)  # noqa: PTH118  (as torchvision's text of it)
        for inside, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
    ]
