"""The HTTP routes of the embedded engine."""
