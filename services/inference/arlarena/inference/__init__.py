"""The policy server: an OpenAI-compatible API to an engine that receives new weights while it serves requests."""
