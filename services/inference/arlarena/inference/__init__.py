"""The policy server: an OpenAI-compatible API over an engine that takes new weights while it serves."""
