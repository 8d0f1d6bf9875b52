"""Augmentations of images as tensors, drawn from torch's generator."""
