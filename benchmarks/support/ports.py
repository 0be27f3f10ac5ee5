"""Finds free ports."""

import socket


def free_port() -> int:
    """Return a port on which no process listens at the time of the call."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
