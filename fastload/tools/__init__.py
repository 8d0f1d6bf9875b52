"""The commands, and what only they use; nothing of the loader imports from here.

``cli`` has a file for each command; ``bench``, ``profile``, ``doctor``, ``live`` and ``training``
are what the commands of the same names do.
"""
