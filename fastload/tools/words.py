"""Text that commands show: plain characters only, numbers with the right form of their noun, ranks.

File names, workload names, exception texts and other values come from files and programs that the
command did not write. Everything that reaches a terminal passes through `printable`, so no such
text can move the cursor, change colours or set the title of the window.
"""

import os

_KEPT = "\n\t"
_LONGEST = 80


def printable(text: str) -> str:
    r"""Replace every character that is not printable by its escape; line ends and tabs stay.

    Example:
        >>> print(printable("a\x1b[31mb"))
        a\x1b[31mb
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in _KEPT else ascii(each)[1:-1] for each in text
    )


def one_line(value: object, longest: int = _LONGEST) -> str:
    r"""Return the text of a value as one printable line, cut to at most `longest` characters.

    Example:
        >>> one_line("first\nsecond")
        'first\\nsecond'
    """
    text = str(value)
    short = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return printable(short).replace("\n", "\\n").replace("\t", "\\t")


def counted(number: float, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is one.

    Example:
        >>> counted(1, "epoch"), counted(1_200, "batch"), counted(1.5, "core")
        ('1 epoch', '1,200 batches', '1.5 cores')
    """
    plural = f"{noun}es" if noun.endswith("tch") else f"{noun}s"
    figure = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{figure} {noun if figure == '1' else plural}"


def rank_prefix() -> str:
    """Return `"[rank 3] "` in a process that a launcher such as torchrun started, otherwise `""`.

    Launchers set `RANK`; with `LOCAL_RANK` alone the rank on this machine is named.
    """
    for variable, name in (("RANK", "rank"), ("LOCAL_RANK", "local rank")):
        rank = os.environ.get(variable, "")
        if rank.isdecimal():
            return f"[{name} {rank}] "
    return ""
