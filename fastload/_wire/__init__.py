"""What travels between consumer and worker, and how it is written and read.

Runs in: consumer and worker.
Owns: the ends of pipes.
"""
