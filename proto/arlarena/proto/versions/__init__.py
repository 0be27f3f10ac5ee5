"""Version directories of weights, their deltas, and models on this disk."""
