"""HTTP: addresses of services, and limits of servers."""
