"""What `fastload run --live` and `loader.watch()` show while training runs.

`gauge` reads the counters of running epochs, `line` puts a reading into words, `terminal` keeps one
line of the terminal free of the program's own output, `watch` does all three in a thread.
"""

from fastload.tools.live.watch import watching

__all__ = ["watching"]
