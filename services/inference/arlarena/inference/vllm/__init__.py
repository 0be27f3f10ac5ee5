"""vLLM as the engine. vLLM's server runs in a separate Python environment. The gateway controls it by vLLM's routes."""
