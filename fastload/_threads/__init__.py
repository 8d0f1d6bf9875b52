"""Threads as workers: what ``worker_method="thread"`` has in the place of processes.

Runs in: consumer; ``thread_loop`` in threads of its own.
Owns: the threads, their queues of tasks, and which worker ``get_worker_info`` says a thread is.
"""
