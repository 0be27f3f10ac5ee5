"""Judges answers."""
