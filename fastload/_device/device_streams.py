"""The streams and events of an accelerator, in which copies run beside the training's kernels.

Runs in: consumer.

All that is asked of a device is in the protocols below, so tests can put a made-up device there
that runs its queues in any order that the events allow.
"""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import torch


class DeviceStream(Protocol):
    """A queue of work on the device."""

    def wait_event(self, event: Any) -> None:
        """What is queued from now on begins after the event."""

    def wait_stream(self, stream: Any) -> None:
        """What is queued from now on begins after all that the other stream has queued."""


class DeviceEvent(Protocol):
    """A place in a stream's queue."""

    def record(self, stream: Any) -> None:
        """Take the place behind what the stream has queued."""

    def query(self) -> bool:
        """Whether the stream has got there."""


class StreamModule(Protocol):
    """What ``torch.cuda``, ``torch.xpu`` and the like have."""

    def Stream(self, device: torch.device) -> DeviceStream:  # noqa: N802
        """A new stream."""

    def Event(self) -> DeviceEvent:  # noqa: N802
        """A new event."""

    def stream(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """Queue on this stream within the block."""

    def current_stream(self, device: torch.device) -> DeviceStream:
        """The stream on which this thread queues."""


def stream_module(device: torch.device) -> StreamModule | None:
    """The module with a device's streams; None where it has none, or needs none, as the CPU."""
    if device.type in {"cpu", "meta"}:
        return None
    module: Any = torch.get_device_module(device)
    names = ("Stream", "Event", "stream", "current_stream")
    return module if all(hasattr(module, name) for name in names) else None
