"""Tests of the policy server with real processes."""
