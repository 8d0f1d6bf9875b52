"""What Lightning expects of a loader's state that no other caller does.

Runs in: consumer.

Lightning keeps a loader's class and options and needs no help with them. But it counts batches by
itself: after a checkpoint that was saved at the last batch of an epoch it goes on with the next
epoch, and takes the iterator it asks for then as that epoch's. The rest of the old one, which is
empty, would make it leave out an epoch, as it does with torchdata's loader.
"""

from __future__ import annotations

import sys

_PACKAGES = ("lightning", "pytorch_lightning")


def is_calling(method: str) -> bool:
    """Whether a method was called by Lightning, directly or through a subclass's own."""
    frame = sys._getframe(1)
    while frame.f_code.co_name == method and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _PACKAGES
