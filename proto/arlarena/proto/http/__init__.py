"""HTTP: service addresses, and limits of servers."""
