"""Shared memory in which workers write batches and the consumer views them: one arena a pool.

Runs in: consumer and worker; each module says which.
Owns: the arena's pages, the free list of slots, and who holds which slot.
"""
