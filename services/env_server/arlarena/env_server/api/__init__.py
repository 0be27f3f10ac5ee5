"""The transports HTTP, WebSocket and MCP: they read requests and write replies."""
