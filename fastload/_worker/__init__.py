"""The life of one worker process: from its first statement to its end.

Runs in: worker.
Owns: the queue of orders and the fetcher of each run.
"""
