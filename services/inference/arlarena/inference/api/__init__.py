"""HTTP for both kinds of engine: reading requests, errors, access, weight routes."""
