"""Large read-only Python containers in memory that all workers share.

Runs in: any process.
"""

from fastload.datasets.shared.mapping import SharedDict
from fastload.datasets.shared.sequence import SharedList

__all__ = ["SharedDict", "SharedList"]
