"""HTTP code for both engines: reading requests, errors, access control, weight routes."""
