"""Names of loaders in the benchmark: a class, and with `seed=` the mode in which it runs.

    torch    fastload    fastload(seed=7)    module:attribute

The name with its seed stands in commands, tables and result files, so that figures of the two modes
can't be taken for one another. Imports no torch.
"""

import re


def with_seed(name: str, seed: int) -> str:
    """Return the name of a loader that is given `seed=`.

    Example:
        >>> with_seed("fastload", 7)
        'fastload(seed=7)'
    """
    return f"{name}(seed={seed})"


def split_name(name: str) -> tuple[str, int | None]:
    """Return the name of the class, and the seed if there is one.

    Example:
        >>> split_name("fastload(seed=7)"), split_name("torch")
        (('fastload', 7), ('torch', None))
    """
    found = re.fullmatch(r"(.+)\(seed=(\d+)\)", name)
    return (name, None) if found is None else (found[1], int(found[2]))
