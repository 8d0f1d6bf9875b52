"""What happens to a batch between its arrival and the training loop.

Runs in: consumer.
"""
