"""One pass over the dataset: the iterators that ``iter(loader)`` gives, one file for each way.

Runs in: consumer.
Owns: the place in the epoch, the order of batches, and the batch that is on its way to the caller.
"""
