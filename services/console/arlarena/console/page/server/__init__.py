"""The HTTP server of the run page."""
