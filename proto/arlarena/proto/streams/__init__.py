"""The queue between trainer and rollout workers, on Redis or Valkey."""
