"""Both ends of a worker's life: start, watch and stop it (consumer), and its loop (worker)."""
