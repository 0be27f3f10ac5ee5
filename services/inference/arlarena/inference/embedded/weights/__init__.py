"""Loads and replaces the weights of the embedded engine."""
