"""Guess a number: a complete environment in one short file, as an example."""
