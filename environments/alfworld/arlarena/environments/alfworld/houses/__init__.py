"""Games that are made from a seed: rooms, things and tasks."""
