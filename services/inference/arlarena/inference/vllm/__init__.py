"""vLLM as the engine. vLLM's server runs in a separate Python environment and is controlled by its own routes."""
