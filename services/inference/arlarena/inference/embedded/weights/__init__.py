"""Weights of the embedded engine: loading and replacing them."""
