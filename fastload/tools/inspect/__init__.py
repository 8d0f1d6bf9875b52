"""Look into a dataset's files: what is there, how large, a few samples, and a batch of them.

Runs in: consumer.
"""

from fastload.tools.inspect.files import inspect_path
from fastload.tools.inspect.inspection import Inspection

__all__ = ["Inspection", "inspect_path"]
