"""Samples become one batch.

Runs in: worker (consumer with ``num_workers=0``).
"""

from torch.utils.data import default_collate, default_convert

__all__ = ["default_collate", "default_convert"]
