"""Several worker processes and several pods that share sessions."""
