"""Tensors that a loader has to carry: name → function that makes the sample."""

import re
from collections.abc import Callable

import torch
from torch import nn

ALL_DTYPES = sorted(
    {value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str
)
_QUANTIZED = re.compile(r"torch\.qu?int")
_WITHOUT_OPERATORS = re.compile(r"torch\.(bits|u?int[1-7]\b)")


def _bits_as(dtype: torch.dtype, size: int = 6) -> torch.Tensor:
    """A tensor of this dtype with every bit pattern, NaNs and infinities too."""
    if dtype == torch.bool:
        return torch.arange(size) % 2 == 0
    generator = torch.Generator().manual_seed(dtype.itemsize)
    raw = torch.randint(0, 256, (size * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype)


def _of_each(dtypes: list[torch.dtype]) -> dict[str, Callable[[], torch.Tensor]]:
    made: dict[str, Callable[[], torch.Tensor]] = {}
    for dtype in dtypes:
        made[str(dtype)] = lambda dtype=dtype: _bits_as(dtype)  # type: ignore[misc]
        made[f"{dtype}, 2-d"] = lambda dtype=dtype: _bits_as(dtype).view(2, 3)  # type: ignore[misc]
        made[f"{dtype}, 0-d"] = lambda dtype=dtype: _bits_as(dtype, 1).view(())  # type: ignore[misc]
        made[f"{dtype}, empty"] = lambda dtype=dtype: _bits_as(dtype, 0)  # type: ignore[misc]
    return made


def _image() -> torch.Tensor:
    return torch.arange(2 * 3 * 4.0).view(2, 3, 4)


class Tagged(torch.Tensor):
    """A subclass of Tensor."""


class Labelled(torch.Tensor):
    """A subclass of Tensor whose objects carry an attribute."""

    label = "none"


def _labelled() -> torch.Tensor:
    tensor = torch.arange(4.0).as_subclass(Labelled)
    tensor.label = "mine"
    return tensor


def _with_attribute() -> torch.Tensor:
    tensor = torch.arange(4.0)
    tensor.name_of_mine = "kept"  # type: ignore[attr-defined]
    return tensor


def _non_leaf() -> torch.Tensor:
    return torch.arange(3.0, requires_grad=True) * 2


def _two_views() -> list[torch.Tensor]:
    base = torch.arange(8.0)
    return [base[:6], base[2:]]


_dense = [dtype for dtype in ALL_DTYPES if not _QUANTIZED.match(str(dtype))]
DTYPES = _of_each([dtype for dtype in _dense if not _WITHOUT_OPERATORS.match(str(dtype))])
ODD_DTYPES = _of_each([dtype for dtype in _dense if _WITHOUT_OPERATORS.match(str(dtype))])

SHAPES = {
    "0-d": lambda: torch.tensor(3.5),
    "zero-length": lambda: torch.empty(0),
    "zero rows": lambda: torch.empty(0, 3),
    "zero columns": lambda: torch.empty(3, 0, 2),
    "one element": lambda: torch.ones(1, 1, 1),
    "many dimensions": lambda: torch.arange(64.0).view([2] * 6),
    "odd number of bytes": lambda: torch.arange(7, dtype=torch.uint8),
    "transposed": lambda: _image().transpose(0, 2),
    "sliced with steps": lambda: _image()[:, ::2, 1::2],
    "slice of something large": lambda: torch.arange(100_000.0)[500:510],
    "expanded": lambda: torch.arange(3.0).expand(4, 3),
    "expanded scalar": lambda: torch.tensor(2.0).expand(3, 2),
    "overlapping": lambda: torch.arange(9.0).unfold(0, 3, 2),
    "overlapping strides": lambda: torch.arange(9.0).as_strided((3, 3), (1, 2)),
    "channels last": lambda: (
        torch.arange(120.0).view(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    ),
    "channels last 3d": lambda: (
        torch.arange(240.0).view(2, 3, 4, 5, 2).contiguous(memory_format=torch.channels_last_3d)
    ),
    "diagonal": lambda: torch.arange(16.0).view(4, 4).diagonal(),
    "signed zeros and NaNs": lambda: torch.tensor([0.0, -0.0, float("nan"), float("-inf")]),
    "large": lambda: torch.arange(300_000.0),
    "two views of one memory": _two_views,
}

KINDS = {
    "sparse COO": lambda: torch.sparse_coo_tensor([[0, 2], [1, 0]], [3.0, 4.0], (3, 2)),  # type: ignore[arg-type]
    "sparse COO, coalesced": lambda: torch.eye(3).to_sparse().coalesce(),
    "sparse COO, empty": lambda: torch.sparse_coo_tensor(size=(3, 2)),  # type: ignore[call-arg]
    "sparse CSR": lambda: torch.sparse_csr_tensor([0, 1, 2], [1, 0], [5.0, 6.0], (2, 2)),
    "nested, strided": lambda: torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)]),
    "nested, jagged": lambda: torch.nested.nested_tensor(
        [torch.ones(2), torch.zeros(3)], layout=torch.jagged
    ),
    "quantized per tensor": lambda: torch.quantize_per_tensor(
        torch.tensor([0.5, 1.5, -2.0]), 0.25, 3, torch.quint8
    ),
    "quantized per channel": lambda: torch.quantize_per_channel(
        torch.tensor([[0.5, 1.5], [-2.0, 1.0]]),
        torch.tensor([0.25, 0.5]),
        torch.tensor([1, 2]),
        0,
        torch.qint8,
    ),
    "parameter": lambda: nn.Parameter(torch.arange(3.0)),
    "parameter without gradient": lambda: nn.Parameter(torch.arange(3.0), requires_grad=False),
    "buffer": lambda: nn.Buffer(torch.arange(3.0)),
    "subclass": lambda: torch.arange(3.0).as_subclass(Tagged),
    "subclass with an attribute": _labelled,
    "attribute on a tensor": _with_attribute,
    "leaf that requires a gradient": lambda: torch.arange(3.0, requires_grad=True),
    "result that requires a gradient": _non_leaf,
    "conjugate view": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "negative view": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    "real part": lambda: torch.tensor([1 + 2j, 3 - 4j]).real,
    "meta": lambda: torch.empty(2, 3, device="meta"),
    "inference mode": lambda: torch.inference_mode()(lambda: torch.arange(3.0) + 1)(),
    "shared memory": lambda: torch.arange(3.0).share_memory_(),  # type: ignore[no-untyped-call]
}
