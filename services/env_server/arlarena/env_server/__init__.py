"""Environment servers: stateful sessions over HTTP and WebSocket, one process type per environment."""
