"""The policy server: an OpenAI-compatible API to a model. The model receives new weights while it serves requests."""
