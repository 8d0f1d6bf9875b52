"""Datasets made of other datasets: their loaded samples kept on disk.

Runs in: any process.
"""

from fastload.sources.cached import Cached

__all__ = ["Cached"]
