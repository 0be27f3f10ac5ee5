"""One address before one or many engines: who gets which request, and that nobody serves other weights than it says."""
