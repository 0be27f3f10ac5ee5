"""Typed, asynchronous clients of the environment server and the policy server."""
