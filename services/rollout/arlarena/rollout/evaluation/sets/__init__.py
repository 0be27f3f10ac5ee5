"""Standard evaluation sets: fixed lists of tasks with digests."""
