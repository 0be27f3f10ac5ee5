"""Generates games from seeds: rooms, things and tasks."""
