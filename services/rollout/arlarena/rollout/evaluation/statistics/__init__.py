"""Estimates and intervals over the records of attempts."""
