"""A person plays an environment in the browser."""
