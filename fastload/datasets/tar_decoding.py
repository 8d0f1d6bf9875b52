"""Make values of the fields of a sample, by their names.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the name of a field and its bytes.
Gives: a tensor, an array, a number, a text or what JSON holds; or the bytes.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from fastload._system.interruptions import is_from_outside
from fastload.datasets.image_decoding import decode_image
from fastload.errors import CorruptDataError, annotate

Decoder = Callable[[bytes], Any]


def decode_picture(content: bytes, where: str = "") -> torch.Tensor:
    """Return an image as a uint8 tensor (3, height, width): red, green, blue."""
    return torch.from_numpy(decode_image(content, name=where)).permute(2, 0, 1)


def decode_text(content: bytes) -> str:
    """Return UTF-8 as a string."""
    return content.decode("utf-8")


def decode_array(content: bytes) -> Any:
    """Return the array of an ``.npy`` file; one of Python objects is refused."""
    return np.load(io.BytesIO(content), allow_pickle=False)


def decode_arrays(content: bytes) -> dict[str, Any]:
    """Return the arrays of an ``.npz`` file by their names."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def load_with_torch(content: bytes) -> Any:
    """Return what ``torch.save`` wrote; it may run any code that the file holds."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)


IMAGES = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pnm")
)

DECODERS: dict[str, Decoder] = {
    **dict.fromkeys(("txt", "text", "transcript"), decode_text),
    **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), int),
    **dict.fromkeys(("json", "jsn"), json.loads),
    "npy": decode_array,
    "npz": decode_arrays,
}

PICKLED: dict[str, Decoder] = {
    **dict.fromkeys(("pkl", "pickle", "pyd"), pickle.loads),
    "pth": load_with_torch,
}
"""What may run code when it is read."""


def import_image_libraries() -> None:
    """Import what decodes images, where it is installed: once, not in each forked worker."""
    for name in ("PIL.Image", "simplejpeg"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class FieldDecoder:
    """Decodes fields by the last part of their names, as webdataset does.

    Args:
        decode: Whether to decode at all, or functions for names, which go before the usual ones: of
            the whole name (``"seg.png"``) before that of its last part (``"png"``).
        allow_pickle: Whether fields may be read that can run code.

    Raises:
        TypeError: ``decode`` is neither a bool nor a mapping of names to functions.
    """

    def __init__(self, decode: bool | Mapping[str, Decoder], *, allow_pickle: bool) -> None:
        given = decode if isinstance(decode, Mapping) else {}
        if not isinstance(decode, bool | Mapping) or not all(map(callable, given.values())):
            raise TypeError(
                f"decode is True, False, or a mapping of names of fields to functions of bytes, "
                f"but got {decode!r}"
            )
        self._is_on = decode is not False
        if self._is_on:
            import_image_libraries()
        self._given = {name.lower().lstrip("."): function for name, function in given.items()}
        self._allows_pickle = allow_pickle

    @property
    def is_usual(self) -> bool:
        """Whether fields are decoded, and by no function of the user's."""
        return self._is_on and not self._given and not self._allows_pickle

    def decode(self, name: str, content: bytes, where: str) -> Any:
        """Return the value of a field.

        Args:
            name: The field's name: ``"jpg"``, ``"seg.png"``, ``"json.gz"``.
            content: Its bytes.
            where: Its shard, sample and place, for errors.

        Raises:
            CorruptDataError: The content is not what the name says.
            ValueError: It is a pickle, which was not allowed.
        """
        if not self._is_on:
            return content
        function = self._given.get(name) or self._given.get(name.rpartition(".")[2])
        if function is not None:
            return _call(function, content, where)
        if name == "gz" or name.endswith(".gz"):
            name, content = name[:-3], _decoded(gzip.decompress, content, name, where)
        last = name.rpartition(".")[2]
        if last in PICKLED:
            if not self._allows_pickle:
                raise ValueError(
                    f"{where} is a pickle, which can run any code when it is read. If you trust "
                    f"whoever made the shards, pass allow_pickle=True; else leave the field out "
                    f"with fields=, or take its bytes with decode={{{last!r}: bytes}}"
                )
            return _call(PICKLED[last], content, where)
        if last in IMAGES:
            return decode_picture(content, where)
        known = DECODERS.get(last)
        return content if known is None else _decoded(known, content, name, where)


def _call(function: Decoder, content: bytes, where: str) -> Any:
    """Call a function of the user's, or one that runs the user's code: errors stay as they are."""
    try:
        return function(content)
    except Exception as error:
        if not is_from_outside(error):
            annotate(error, f"while decoding {where}")
        raise


def _decoded(function: Decoder, content: bytes, name: str, where: str) -> Any:
    try:
        return function(content)
    except ImportError:
        raise
    except Exception as error:
        if is_from_outside(error) or isinstance(error, MemoryError):
            raise
        raise CorruptDataError(f"{where} can't be read as .{name}: {error}") from error
