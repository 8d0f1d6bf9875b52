"""Shared memory: one arena made of slots, written by workers and viewed by the consumer.

Runs in: consumer and worker; each module says which.
Owns: the arena's pages, the free list of slots, and who holds which slot.
"""
