"""The embedded engine: a small torch engine for CPUs, with continuous batching, a prefix cache and request seeds."""
