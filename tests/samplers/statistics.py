"""How far counts are from what chance would give."""

import numpy as np


def surprise(counts: np.ndarray, expected: float, freedom: int | None = None) -> float:
    """Chi-square of counts with one expectation, in standard deviations from its mean."""
    degrees = counts.size - 1 if freedom is None else freedom
    chi_square = np.sum((counts - expected) ** 2) / expected
    return float((chi_square - degrees) / np.sqrt(2 * degrees))


def grid(first: np.ndarray, second: np.ndarray, length: int, cells: int) -> np.ndarray:
    """How often pairs of numbers below ``length`` fall into each of ``cells`` by ``cells``."""
    cell = (first * cells // length) * cells + second * cells // length
    return np.bincount(cell, minlength=cells * cells)
