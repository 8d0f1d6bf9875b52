"""How often tests repeat what they draw at random: a few times, or many in the exhaustive run."""

is_exhaustive = False
"""Set before tests are collected."""


def rounds(few: int, many: int) -> int:
    """As many as this run takes."""
    return many if is_exhaustive else few
