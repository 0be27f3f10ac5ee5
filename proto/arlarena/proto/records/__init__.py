"""Records of a run for people: what the loss of a training step used, token by token."""
