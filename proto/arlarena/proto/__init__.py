"""Code shared by several services: wire types, the stream client, configuration and telemetry.

This package imports no other package of ARLArena, and does not need torch.
"""
