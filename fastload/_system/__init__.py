"""What the operating system allows and how its state is handled: limits, descriptors, signals.

Runs in: consumer and worker.
Owns: nothing but the handlers that are deferred while a worker is started.
"""
