"""Decode an image file: JPEG by simplejpeg, everything else by Pillow.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the bytes of an encoded image; a size, where another one than the image's own is wanted.
Gives: an array ``(height, width, 3)`` of uint8, red, green and blue, where the caller wants it.

Both libraries are optional, the extra ``fastload[images]``. Without simplejpeg, Pillow decodes JPEG
files too. A damaged file is an error that names it, and never an image with a grey rest.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload._system.interruptions import is_from_outside
from fastload.errors import CorruptDataError
from fastload.transforms.resampling import resize_pixels

__all__ = ["Pixels", "decode_image", "has_simplejpeg", "image_size", "open_with_pillow"]

Pixels = npt.NDArray[np.uint8]
"""Holds an image: ``(height, width, 3)``."""

Encoded = bytes | bytearray | memoryview

CURE = 'pip install "fastload[images]"'

_JPEG = b"\xff\xd8\xff"
_SCALES = (8, 4, 2)
_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})
"""Lists the orientations in EXIF with which height and width change places."""

MOST_PIXELS_UNLESS_PILLOW_SAYS = 89_478_485
"""Half of what is refused; as ``PIL.Image.MAX_IMAGE_PIXELS``, which holds where Pillow is there."""


def has_simplejpeg() -> bool:
    """Import simplejpeg, which workers then need not, and return whether it is there."""
    try:
        import simplejpeg  # noqa: F401
    except ImportError:
        return False
    return True


def decode_image(
    encoded: Encoded,
    *,
    size: tuple[int, int] | None = None,
    out: Pixels | None = None,
    name: str = "",
    apply_exif_orientation: bool = False,
) -> Pixels:
    """Decode an image to an array ``(height, width, 3)`` of uint8: red, green, blue.

    Grey images get three equal channels; alpha is dropped; of an animation the first frame is
    taken; 16-bit values become their high byte.

    Args:
        encoded: The file: JPEG, PNG, WebP, GIF, TIFF, BMP, or whatever else Pillow reads.
        size: Height and width to which the whole image is resized, whatever its own proportions
            (bilinear, antialiased). None: as it is.
        out: Where the pixels are put, ``(height, width, 3)``, C-contiguous; None: a new array.
        name: What the file is called in errors.
        apply_exif_orientation: Turn the image as its camera was turned. torchvision's default
            loader does not.

    Returns:
        ``out``, or a new array.

    Raises:
        CorruptDataError: The file is empty, truncated, damaged, no image, or has more than twice
            ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.
        ValueError: ``out`` does not fit, or the pixels are of a kind without an agreed range
            (32-bit integers, floats).
        ImportError: Neither simplejpeg nor Pillow can decode it here, because it is not installed.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (64, 48), "red").save(file, "PNG")
        >>> decode_image(file.getvalue()).shape
        (48, 64, 3)
        >>> decode_image(file.getvalue(), size=(24, 24))[0, 0].tolist()
        [255, 0, 0]
    """
    own = _jpeg_size(encoded, name, apply_exif_orientation)
    if own is None:
        image = _open_whole(encoded, size, name, apply_exif_orientation)
        pixels = _as_rgb(image, name)
    else:
        pixels = _decode_jpeg(encoded, own, size, out if size in {None, own} else None, name)
    if size is not None and pixels.shape[:2] != size:
        pixels = resize_pixels(pixels, size)
    if out is None or pixels is out:
        return pixels
    _check_fits(out, pixels.shape, name)
    np.copyto(out, pixels)
    return out


def image_size(
    encoded: Encoded, *, name: str = "", apply_exif_orientation: bool = False
) -> tuple[int, int]:
    """Return the height and width that ``decode_image`` gives, from the file's header alone.

    Raises:
        CorruptDataError: As ``decode_image``, as far as the header shows it.
        ImportError: As ``decode_image``.
    """
    own = _jpeg_size(encoded, name, apply_exif_orientation)
    if own is not None:
        return own
    with _naming(encoded, name), open_with_pillow(encoded) as image:
        is_turned = apply_exif_orientation and image.getexif().get(_ORIENTATION) in _TURNED
        return (image.width, image.height) if is_turned else (image.height, image.width)


def _jpeg_size(encoded: Encoded, name: str, apply_exif_orientation: bool) -> tuple[int, int] | None:
    """Return height and width of a JPEG file that simplejpeg can decode; None: Pillow is to do it.

    Raises:
        CorruptDataError: The file is empty, or has too many pixels.
    """
    if not len(encoded):
        raise CorruptDataError(f"{_named(name)} is empty (0 bytes)", name)
    if bytes(encoded[:3]) != _JPEG:
        return None
    try:
        from simplejpeg import decode_jpeg_header
    except ImportError:
        return None
    try:
        height, width, colours, _ = decode_jpeg_header(encoded)
    except ValueError:  # a sampling that turbojpeg does not know; or damage, of which Pillow tells
        return None
    if colours not in {"YCbCr", "RGB", "Gray"}:
        return None
    _check_pixels(height, width, name)
    if apply_exif_orientation and _is_turned(encoded, name):
        return None
    return height, width


def _decode_jpeg(
    encoded: Encoded,
    own: tuple[int, int],
    size: tuple[int, int] | None,
    out: Pixels | None,
    name: str,
) -> Pixels:
    """Decode at the smallest scale that is large enough, into ``out`` where that is given."""
    from simplejpeg import decode_jpeg

    if out is not None:
        _check_fits(out, (*own, 3), name)
    scale = 1 if size is None else _scale_for(own, size)
    height, width = -(-own[0] // scale), -(-own[1] // scale)
    try:
        pixels: Pixels = decode_jpeg(
            encoded,
            "RGB",
            min_height=height,
            min_width=width,
            min_factor=scale,
            buffer=out,
            strict=True,
        )
    except ValueError as error:
        raise _damaged(encoded, name, error) from error
    return pixels if out is None else out


def _scale_for(size: tuple[int, int], wanted: tuple[int, int]) -> int:
    """Return by how much each side can be divided so that it is still as large as wanted."""
    for scale in _SCALES:
        if all(-(-side // scale) >= least for side, least in zip(size, wanted, strict=True)):
            return scale
    return 1


def _open_whole(
    encoded: Encoded, size: tuple[int, int] | None, name: str, apply_exif_orientation: bool
) -> Any:
    """Return a whole image by Pillow; a JPEG at the smallest scale that is large enough."""
    with _naming(encoded, name), open_with_pillow(encoded) as image:
        if size is not None and image.format == "JPEG":
            scale = _scale_for((image.height, image.width), size)
            image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        if not apply_exif_orientation:
            return image
        from PIL import ImageOps

        return ImageOps.exif_transpose(image)


def open_with_pillow(encoded: Encoded) -> Any:
    """Open an image as Pillow does: nothing but its header is read yet.

    Raises:
        ImportError: Pillow is not installed.
        Exception: Whatever Pillow raises for a file that is no image, or too large a one.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(f"decoding images needs Pillow: {CURE}") from None
    return Image.open(io.BytesIO(encoded))


def _as_rgb(image: Any, name: str) -> Pixels:
    """Convert an image of any of Pillow's modes."""
    mode: str = image.mode
    if mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode in {"I", "F"}:
        raise ValueError(
            f"{_named(name)} has 32-bit pixels (Pillow's mode {mode}), of which nobody knows the "
            "range: read it with a loader of your own that scales them to 0..255"
        )
    if mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return np.array(image if mode == "RGB" else image.convert("RGB"))


def _is_turned(encoded: Encoded, name: str) -> bool:
    """Return whether a JPEG file says that its camera was not upright."""
    if b"Exif\x00\x00" not in bytes(encoded[: 1 << 17]):
        return False
    with _naming(encoded, name), open_with_pillow(encoded) as image:
        return bool(image.getexif().get(_ORIENTATION, 1) != 1)


def _check_pixels(height: int, width: int, name: str) -> None:
    """Refuse a file whose header promises more pixels than Pillow would decode."""
    most = _most_pixels()
    if most is not None and height * width > most:
        raise CorruptDataError(
            f"{_named(name)} has {width:,} x {height:,} pixels, more than {most:,}: it may be a "
            "decompression bomb. If it is not, raise PIL.Image.MAX_IMAGE_PIXELS, half of that",
            name,
        )


def _most_pixels() -> int | None:
    """Return how many pixels an image may have; None: any number."""
    try:
        from PIL import Image
    except ImportError:
        return 2 * MOST_PIXELS_UNLESS_PILLOW_SAYS
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def _check_fits(out: Pixels, shape: tuple[int, ...], name: str) -> None:
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(
            f"{_named(name)} makes an array of shape {shape} and uint8, which does not fit into "
            f"out of shape {out.shape} and {out.dtype}: it must be the same, and C-contiguous"
        )


@contextlib.contextmanager
def _naming(encoded: Encoded, name: str) -> Iterator[None]:
    """Turn whatever Pillow raises for a file into an error that names the file."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        if is_from_outside(error):
            raise
        raise _damaged(encoded, name, error) from error


def _damaged(encoded: Encoded, name: str, error: Exception) -> CorruptDataError:
    kind = type(error).__name__
    if kind == "UnidentifiedImageError":
        why = "it is no image, or its beginning is damaged"
    elif kind == "DecompressionBombError":
        why = f"{error}. If it is not, raise PIL.Image.MAX_IMAGE_PIXELS"
    else:
        why = str(error) or kind
    return CorruptDataError(
        f"{_named(name)} ({len(encoded):,} bytes) can't be decoded: {why}", name
    )


def _named(name: str) -> str:
    return name or "an image without a name"
