"""Evaluates closed models, checkpoints, expert solvers, random players and people on the environments."""
