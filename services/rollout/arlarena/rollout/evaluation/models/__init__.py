"""Models behind an API, each through its vendor's own client library."""
