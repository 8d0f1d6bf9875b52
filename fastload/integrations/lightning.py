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


def is_calling(depth: int) -> bool:
    """Whether the code ``depth`` calls above the caller belongs to Lightning."""
    module = str(sys._getframe(depth + 1).f_globals.get("__name__"))
    return module.partition(".")[0] in _PACKAGES
