"""Tests of the embedded engine's numerics."""
