"""The routes of the embedded engine."""
