"""How workers are started, for tests that hold for each way of starting them.

A spawned worker is a new interpreter that imports torch: seconds of a core. What it is given is the
same pickle that a child of the fork server is given, so the latter keeps these promises in every
run, and spawn in the exhaustive one. Tests of the start itself name "spawn" themselves.
"""

import pytest

SPAWN = pytest.param("spawn", marks=pytest.mark.exhaustive)

ANEW = ["forkserver", SPAWN]
"""Workers that get the dataset as a pickle."""

METHODS = ["fork", *ANEW]
