"""The DataLoader (to be filled in)."""

from torch.utils.data import DataLoader as DataLoader
