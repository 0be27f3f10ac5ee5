"""Sessions and their operations, for all transports (HTTP, WebSocket and MCP)."""
