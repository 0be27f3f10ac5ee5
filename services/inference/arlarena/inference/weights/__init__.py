"""Finds and verifies version directories."""
