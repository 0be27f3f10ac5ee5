"""A small torch engine for CPUs: slots, continuous batching, a prefix cache, a seed per request."""
