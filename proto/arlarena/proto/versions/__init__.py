"""Version directories of weights, deltas between them, and local copies of models."""
