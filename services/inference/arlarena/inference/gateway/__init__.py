"""The gateway: one address for several engines. It routes requests and checks which weights each engine serves."""
