"""Clients of the environment API and of the policy: asynchronous, typed, and careful about what may be repeated."""
