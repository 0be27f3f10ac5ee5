"""Strategies, which turn a model's replies into an action, and players without a model."""
