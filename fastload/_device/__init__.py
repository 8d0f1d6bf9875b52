"""Batches on their way to an accelerator: copied ahead, and counted when they are handed out.

Runs in: consumer.
"""
