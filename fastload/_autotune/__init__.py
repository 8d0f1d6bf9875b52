"""Choose the number of workers while an epoch runs: ``num_workers="auto"``.

Runs in: consumer.
Owns: the tuner's choice and the measurements that it follows from.
"""
