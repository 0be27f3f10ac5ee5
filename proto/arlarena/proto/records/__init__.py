"""Records that people inspect: episodes, and the values that the loss of a training step used for each token."""
