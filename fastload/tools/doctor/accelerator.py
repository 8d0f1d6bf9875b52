"""Examine the accelerator, torch's build for it, and page-locked memory."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastload.tools.doctor.finding import Finding

NVIDIA = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What torch sees.

    Attributes:
        torch: torch's version; None where it can't be imported.
        error: Why it can't be imported, or why page-locked memory can't be had.
        threads: ``torch.get_num_threads()``.
        cuda_build: The CUDA version that torch was built for; None: it was built without.
        devices: Names of the CUDA devices that can be used.
        other: Another kind of accelerator, such as ``"mps"``.
        driver: Whether NVIDIA's kernel driver is loaded.
        is_pinned: Whether a tensor could be page-locked; None: not tried, there is no device.
    """

    torch: str | None = None
    error: str = ""
    threads: int | None = None
    cuda_build: str | None = None
    devices: tuple[str, ...] = ()
    other: str | None = None
    driver: bool = False
    is_pinned: bool | None = None


def observe() -> Accelerator:
    """Import torch and ask it for its devices."""
    driver = NVIDIA.exists()
    try:
        torch: Any = importlib.import_module("torch")
    except Exception as error:  # noqa: BLE001 - a broken installation raises anything
        return Accelerator(error=f"{type(error).__name__}: {error}", driver=driver)
    devices = _cuda_devices(torch)
    is_pinned, problem = _try_pinning(torch) if devices else (None, "")
    return Accelerator(
        torch=str(torch.__version__),
        error=problem,
        threads=torch.get_num_threads(),
        cuda_build=torch.version.cuda,
        devices=devices,
        other=_other(torch),
        driver=driver,
        is_pinned=is_pinned,
    )


def judge(accelerator: Accelerator) -> list[Finding]:
    """Judge whether torch can use the accelerator and page-locked memory."""
    if accelerator.torch is None:
        return [
            Finding("torch", "bad", f"can't be imported: {accelerator.error}", "reinstall torch")
        ]
    build = (
        "without CUDA" if accelerator.cuda_build is None else f"for CUDA {accelerator.cuda_build}"
    )
    return [
        Finding("torch", "ok", f"{accelerator.torch}, built {build}"),
        _judge_cuda(accelerator),
        _judge_pinning(accelerator),
    ]


def _judge_cuda(accelerator: Accelerator) -> Finding:
    if accelerator.devices:
        return Finding("CUDA", "ok", ", ".join(accelerator.devices))
    if not accelerator.driver:
        other = f"; torch uses {accelerator.other}" if accelerator.other else ""
        return Finding("CUDA", "ok", f"no NVIDIA driver here{other}")
    if accelerator.cuda_build is None:
        return Finding(
            "CUDA",
            "bad",
            "NVIDIA's driver is loaded, but torch was built without CUDA",
            "install a build of torch for CUDA (https://pytorch.org/get-started)",
        )
    return Finding(
        "CUDA",
        "bad",
        "NVIDIA's driver is loaded and torch was built for CUDA, but it finds no device",
        "look at CUDA_VISIBLE_DEVICES, at nvidia-smi, and whether the driver is new enough for "
        f"CUDA {accelerator.cuda_build}",
    )


def _judge_pinning(accelerator: Accelerator) -> Finding:
    if accelerator.is_pinned is None:
        return Finding("pinned memory", "ok", "not needed: pin_memory=True has no effect here")
    if accelerator.is_pinned:
        return Finding("pinned memory", "ok", "works: pin_memory=True makes copies overlap")
    return Finding(
        "pinned memory",
        "bad",
        f"can't be had: {accelerator.error}",
        "pin_memory=False, or look at the memory that the machine and its containers allow",
    )


def _cuda_devices(torch: Any) -> tuple[str, ...]:
    try:
        if not torch.cuda.is_available():
            return ()
        return tuple(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))
    except RuntimeError:  # a driver that is too old for the build
        return ()


def _other(torch: Any) -> str | None:
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if device is None or device.type == "cuda" else str(device.type)


def _try_pinning(torch: Any) -> tuple[bool, str]:
    try:
        return bool(
            torch.empty(1, device="cpu").pin_memory().is_pinned()
        ), "the tensor is not page-locked"
    except RuntimeError as error:
        return False, str(error).splitlines()[0]
