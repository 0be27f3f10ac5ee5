"""HTTP code that the embedded engine and the gateway share: requests, errors, access control and weight routes."""
