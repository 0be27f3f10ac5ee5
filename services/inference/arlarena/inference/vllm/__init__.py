"""vLLM as the engine: its own server in a separate Python environment, used by its own routes."""
