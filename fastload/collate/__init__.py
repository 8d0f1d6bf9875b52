"""Collate functions: they make one batch of samples.

Runs in: worker (consumer with ``num_workers=0``).

``default_collate`` and ``default_convert`` are torch's; ``pad``, ``pad_dict``, ``pack`` and
``ragged`` take samples of different lengths. Each of the four has a class that holds its settings.
"""

from torch.utils.data import default_collate, default_convert

from fastload.collate.jagged import Ragged, ragged
from fastload.collate.packing import Pack, Packed, pack
from fastload.collate.pad_dict import PadDict, pad_dict
from fastload.collate.padding import Masked, Pad, Padded, pad

__all__ = [
    "Masked",
    "Pack",
    "Packed",
    "Pad",
    "PadDict",
    "Padded",
    "Ragged",
    "default_collate",
    "default_convert",
    "pack",
    "pad",
    "pad_dict",
    "ragged",
]
