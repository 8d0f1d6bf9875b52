"""The datasets of the workloads, by theme. Cheap to sample from, so that loading is what costs.

Samples come from small pools in memory that are deterministic functions of the index.
"""
