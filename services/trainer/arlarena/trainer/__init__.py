"""The trainer: behaviour cloning, the objectives of ARLArena, and the training loop."""
