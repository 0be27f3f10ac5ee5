"""The queue between the trainer and the rollout workers, on Redis or Valkey."""
