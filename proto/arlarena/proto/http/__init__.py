"""HTTP: addresses, and limits of servers."""
