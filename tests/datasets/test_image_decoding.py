"""Encoded images become the pixels that Pillow makes of them, or an error that names the file."""

from __future__ import annotations

import io
import random
import struct
import sys
import warnings
import zlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

from PIL import Image

from fastload import CorruptDataError
from fastload.datasets import image_decoding
from fastload.datasets.image_decoding import decode_image, image_size
from tests.datasets.pictures import by_pillow, encoded, jpeg, picture
from tests.rounds import rounds

needs_simplejpeg = pytest.mark.skipif(
    not image_decoding.has_simplejpeg(), reason="simplejpeg is not installed"
)

JPEGS: dict[str, dict[str, Any]] = {
    "444": {"subsampling": 0},
    "422": {"subsampling": 1},
    "420": {"subsampling": 2},
    "progressive": {"progressive": True},
    "best": {"quality": 100},
    "worst": {"quality": 5},
}


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request: Any, monkeypatch: Any) -> str:
    """Either library for JPEG; None in sys.modules makes an import fail as if it were missing."""
    if request.param == "pillow":
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    elif not image_decoding.has_simplejpeg():
        pytest.skip("simplejpeg is not installed")
    return str(request.param)


def difference(a: Any, b: Any) -> tuple[int, float]:
    """The largest and the mean difference of a channel."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    between = np.abs(a.astype(int) - b)
    return int(between.max()), float(between.mean())


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("shape", [(256, 256), (211, 317), (1, 1), (3, 40)])
def test_colours_are_those_of_pillow(decoder: str, shape: Any, options: Any) -> None:
    """Docs say: equal with the same libjpeg-turbo in both; else channels differ by 4 at most."""
    content = encoded(picture(*shape), **options)
    largest, mean = difference(decode_image(content), by_pillow(content))
    assert largest <= 4
    assert mean <= 0.5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_colours(decoder: str, mode: str) -> None:
    content = encoded(picture(40, 48).convert(mode))
    assert difference(decode_image(content), by_pillow(content))[0] <= 4
    assert image_size(content) == (40, 48)


def test_adobe_ycck(decoder: str) -> None:
    """Four inverted channels, as Photoshop writes them: Pillow's colours."""
    content = encoded(picture(40, 48).convert("CMYK"), quality=95)
    at = content.index(b"Adobe") + 11
    ycck = content[:at] + b"\x02" + content[at + 1 :]
    assert (decode_image(ycck) == by_pillow(ycck)).all()


KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": ("RGB", "PNG", {}),
    "png-grey": ("L", "PNG", {}),
    "png-palette": ("P", "PNG", {}),
    "png-alpha": ("RGBA", "PNG", {}),
    "png-grey-alpha": ("LA", "PNG", {}),
    "png-bits": ("1", "PNG", {}),
    "webp": ("RGB", "WEBP", {"lossless": True}),
    "webp-alpha": ("RGBA", "WEBP", {"lossless": True}),
    "gif": ("P", "GIF", {}),
    "tiff": ("RGB", "TIFF", {}),
    "tiff-deflate": ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "bmp": ("RGB", "BMP", {}),
    "ppm": ("RGB", "PPM", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_formats_are_pillows(kind: str) -> None:
    mode, name, options = KINDS[kind]
    content = encoded(picture(40, 48).convert(mode), name, **options)
    assert (decode_image(content) == by_pillow(content)).all()
    assert image_size(content) == (40, 48)


def test_a_palette_with_transparency_warns_of_nothing() -> None:
    image = picture(20, 20).convert("P")
    content = encoded(image, "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_image(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (found == by_pillow(content)).all()


def test_16_bit_grey_keeps_its_high_byte() -> None:
    """Pillow's own conversion clips at 255 and leaves a white image."""
    grey = np.linspace(0, 65_535, 40 * 48).astype(np.uint16).reshape(40, 48)
    found = decode_image(encoded(Image.fromarray(grey), "PNG"))
    assert (found == (grey >> 8)[:, :, None]).all()
    for form in ("TIFF", "PNG"):
        content = encoded(Image.fromarray(grey), form)
        assert decode_image(content, size=(20, 24)).shape == (20, 24, 3)


def test_pixels_without_a_range_are_refused() -> None:
    content = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(ValueError, match=r"f\.tiff has 32-bit pixels \(Pillow's mode F\)"):
        decode_image(content, name="f.tiff")


def test_of_an_animation_the_first_frame() -> None:
    first, second = picture(20, 20, 0).convert("P"), picture(20, 20, 1).convert("P")
    content = encoded(first, "GIF", save_all=True, append_images=[second])
    assert (decode_image(content) == by_pillow(content)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_only_if_asked_for(decoder: str, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(40, 48, exif=exif)
    assert (decode_image(content) == by_pillow(content)).all()
    upright = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert (decode_image(content, apply_exif_orientation=True) == upright).all()
    assert image_size(content, apply_exif_orientation=True) == upright.shape[:2]
    assert image_size(content) == (40, 48)


@pytest.mark.parametrize(
    "size", [(40, 48), (20, 24), (10, 12), (5, 6), (21, 24), (13, 40), (1, 1), (90, 90), (40, 6)]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_size_is_what_comes(decoder: str, kind: str, size: tuple[int, int]) -> None:
    content = encoded(picture(40, 48), kind)
    out = np.zeros((*size, 3), np.uint8)
    found = decode_image(content, size=size)
    assert decode_image(content, size=size, out=out) is out
    assert (found == out).all()
    assert found.shape == (*size, 3)
    assert found.flags.c_contiguous


def test_a_reduced_image_looks_like_pillows(decoder: str) -> None:
    """Docs say how much: decoding at 1/2, 1/4, 1/8 averages blocks as Pillow's reducing does."""
    content = jpeg(256, 320)
    image = Image.open(io.BytesIO(content))
    for height, width in ((256, 320), (200, 250), (128, 160), (100, 90), (64, 80), (30, 40)):
        usual = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
        largest, mean = difference(decode_image(content, size=(height, width)), usual)
        is_whole = height > 128
        assert largest <= (5 if is_whole else 90), (height, width)
        assert mean <= (0.5 if is_whole else 6), (height, width)


@needs_simplejpeg
def test_the_scale_is_the_smallest_that_is_large_enough(monkeypatch: Any) -> None:
    import simplejpeg

    shapes = []
    decode = simplejpeg.decode_jpeg

    def watched(*args: Any, **options: Any) -> Any:
        pixels = decode(*args, **options)
        shapes.append(pixels.shape[:2])
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    content = jpeg(250, 330)
    for size in ((250, 330), (126, 165), (125, 165), (125, 166), (62, 82), (32, 42), (31, 41)):
        decode_image(content, size=size)
    whole, half, quarter, eighth = (250, 330), (125, 165), (63, 83), (32, 42)
    assert shapes == [whole, whole, half, whole, quarter, eighth, eighth]


def test_pixels_go_where_they_are_wanted(decoder: str) -> None:
    for content in (jpeg(), encoded(picture(40, 48), "PNG")):
        out = np.zeros((2, 40, 48, 3), np.uint8)
        decode_image(content, out=out[1])
        assert (out[1] == by_pillow(content)).all()
        assert not out[0].any()
        for wrong in (np.zeros((48, 40, 3), np.uint8), np.zeros((80, 48, 3), np.uint8)[::2]):
            with pytest.raises(ValueError, match="does not fit into out of shape"):
                decode_image(content, out=wrong)
            assert not wrong.any()


def test_any_bytes_will_do(decoder: str) -> None:
    content = jpeg()
    for form in (bytearray(content), memoryview(content)):
        assert (decode_image(form) == by_pillow(content)).all()


def test_empty_files_and_others() -> None:
    with pytest.raises(CorruptDataError, match=r"a\.jpg is empty \(0 bytes\)") as caught:
        decode_image(b"", name="a.jpg")
    assert caught.value.path == "a.jpg"
    with pytest.raises(CorruptDataError, match=r"b\.jpg \(11 bytes\) can't be decoded: it is no"):
        decode_image(b"hello world", name="b.jpg")
    with pytest.raises(CorruptDataError, match="an image without a name"):
        image_size(b"hello world")


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_no_truncated_jpeg_comes_back(decoder: str, options: Any) -> None:
    """Wherever it ends: libjpeg itself would fill the rest with grey."""
    content = encoded(picture(24, 32), **options)
    step = rounds(len(content) // 60, 1)
    for end in [*range(0, len(content), step), *range(len(content) - 20, len(content))]:
        for size in (None, (6, 8)):
            with pytest.raises(CorruptDataError, match=r"x\.jpg"):
                decode_image(content[:end], size=size, name="x.jpg")


@pytest.mark.parametrize("kind", ["png", "webp", "gif", "tiff", "tiff-deflate", "bmp"])
def test_no_other_truncated_file_comes_back(kind: str) -> None:
    """Bytes behind the pixels may be missing: then the image is whole."""
    mode, name, options = KINDS[kind]
    image = picture(24, 32).convert(mode)
    content = encoded(image, name, **options)
    whole = by_pillow(content)
    for end in range(0, len(content), max(1, len(content) // rounds(60, 400))):
        found = pixels_or_error(content[:end], "x")
        if isinstance(found, CorruptDataError):
            assert str(found).startswith("x ")
        else:
            assert (found == whole).all(), end


def pixels_or_error(content: Any, name: str) -> Any:
    """What comes of a damaged file; warnings of Pillow's are left aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return decode_image(content, name=name)
        except CorruptDataError as error:
            return error


@pytest.mark.parametrize("part", range(10))
def test_damaged_jpegs(decoder: str, part: int) -> None:
    """500 files with flipped bits, zeroed stretches, cut middles: an image of its header's size.

    Or an error that names it; a file that has lost its end is always an error.
    """
    generator = random.Random(part)
    for number in range(rounds(5, 50)):
        content = bytearray(jpeg(40, 56, number % 7, progressive=number % 3 == 0))
        is_cut = damage(content, generator)
        found = pixels_or_error(content, "damaged.jpg")
        if isinstance(found, CorruptDataError):
            assert "damaged.jpg" in str(found)
        else:
            assert not is_cut
            assert found.shape == (*image_size(content), 3)


def damage(content: bytearray, generator: random.Random) -> bool:
    """Damage a file in one of four ways; return whether its end was cut off."""
    way = generator.randrange(4)
    at = generator.randrange(len(content))
    if way == 0:
        del content[at:]
        return True
    if way == 1:
        for _ in range(generator.randrange(1, 20)):
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    elif way == 2:
        stretch = generator.randrange(1, 200)
        content[at : at + stretch] = bytes(len(content[at : at + stretch]))
    else:
        del content[at : at + generator.randrange(1, 200)]
        return not content.endswith(b"\xff\xd9")
    return False


def png_of(width: int, height: int) -> bytes:
    """A PNG file that says in its header how large it is, and has nothing else."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG file whose header says that it is large."""
    content = bytearray(jpeg())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize("make", [png_of, jpeg_of])
def test_decompression_bombs_are_refused(decoder: str, make: Any) -> None:
    content = make(60_000, 60_000)
    for function in (decode_image, image_size):
        with pytest.raises(CorruptDataError, match=r"bomb\.x .*PIL\.Image\.MAX_IMAGE_PIXELS"):
            function(content, name="bomb.x")


def test_pillows_limit_counts_for_simplejpeg_too(decoder: str, monkeypatch: Any) -> None:
    content = jpeg(40, 48)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 959)
    with pytest.raises(CorruptDataError, match="MAX_IMAGE_PIXELS"):
        decode_image(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_image(content).shape == (40, 48, 3)


def test_without_any_library_the_cure_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    content = jpeg()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'needs Pillow: pip install "fastload\[images\]"'):
        decode_image(content)
