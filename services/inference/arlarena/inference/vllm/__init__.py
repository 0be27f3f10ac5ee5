"""VLLM as the engine: its own server in an environment of its own, by its own routes."""
