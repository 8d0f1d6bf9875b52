"""One stream, whatever the machine: the order and the random numbers that ``seed=`` stands for.

Runs in: consumer and worker; each module says which.
Owns: nothing that outlives an epoch.

Everything here is a function of seed, epoch and position; see "One stream" in docs/design.md.
"""
