"""Evaluates any model on the environments: closed models, checkpoints, experts, random players and people."""
