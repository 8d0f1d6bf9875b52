"""The border between processes: one arena of shared memory, made of slots.

``arena`` is the memory, ``slots`` says who may use which part of it, ``write`` puts a batch into
a slot (worker), ``view`` shows it without copying (consumer), ``budget`` says how much there is.
"""
