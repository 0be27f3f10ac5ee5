"""Plays the attempts of an evaluation: limits, budgets, retries and resume."""
