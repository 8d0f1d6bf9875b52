"""`python -m fastload` is the command `fastload`."""

import sys

from fastload.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
