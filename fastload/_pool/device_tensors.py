"""Find tensors on an accelerator that forked workers would inherit and can't use.

Runs in: consumer.

CUDA works only in the process that initialised it. A worker that touches such a tensor fails with
"Cannot re-initialize CUDA in forked subprocess", which does not say which tensor it was.
"""

from __future__ import annotations

from typing import Any

import torch

from fastload._seeded.owned import WITHOUT_PARTS, walk


def check_no_device_tensors(**objects: Any) -> None:
    """Refuse objects that own tensors on CUDA, as far as a bounded walk finds them.

    Args:
        **objects: What workers get, by the names that the error is to use.

    Raises:
        ValueError: There is such a tensor; the error names the attribute.
    """
    if not is_cuda_in_use():
        return  # so there is no such tensor, and nothing to be looked for
    for name, root in objects.items():
        for path, tensor in walk(root, name, passed_over=WITHOUT_PARTS, wanted=(torch.Tensor,)):
            if is_unusable(tensor):
                raise ValueError(
                    f"{path} is a tensor on {tensor.device}, which workers started by fork can't "
                    f"use: CUDA works in the process that initialised it alone. Keep the data on "
                    f"the CPU ({path}.cpu()) and let batches be copied: DataLoader(..., "
                    f"device={str(tensor.device)!r}), or fastload.prefetch; or use num_workers=0"
                )


def is_cuda_in_use() -> bool:
    """Whether this process has initialised CUDA."""
    is_initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return is_initialized


def is_unusable(tensor: torch.Tensor) -> bool:
    """Whether a tensor's memory is of no use in a forked process."""
    return tensor.is_cuda
