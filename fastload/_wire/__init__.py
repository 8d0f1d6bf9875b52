"""Messages, indices, exceptions and datasets on their way between consumer and worker.

Runs in: consumer and worker.
Owns: the ends of pipes.
"""
