"""Decides whether answers are right."""
