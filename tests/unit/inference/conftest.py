"""Tests of the policy server's parts."""
