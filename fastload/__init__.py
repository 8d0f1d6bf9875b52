"""fastload: a drop-in replacement for torch's DataLoader."""

from fastload.dataloader import DataLoader

__all__ = ["DataLoader"]
