"""Load samples and collate them: what is the same in a worker and in the training process.

Runs in: worker (consumer with ``num_workers=0``).
Owns: nothing between batches but the dataset's iterator, and the crew that loads samples at a time.
"""
