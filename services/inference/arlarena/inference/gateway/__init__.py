"""The gateway: one address for several engines. It forwards requests to the engines and updates their weights."""
