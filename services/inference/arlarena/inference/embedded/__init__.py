"""A small torch engine for CPUs: slots, continuous batching, reuse of prompts, a seed per request."""
