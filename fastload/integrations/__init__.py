"""Helpers for libraries that make loaders of their own out of ours.

One file a library; each imports it only when it is used. What works without help (Lightning and
Fabric, which keep a loader's class) has no file here.
"""
