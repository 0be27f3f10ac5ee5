"""HTTP code for the embedded engine and the gateway: reading requests, errors, access control, weight routes."""
