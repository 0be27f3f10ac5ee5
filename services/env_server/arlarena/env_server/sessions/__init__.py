"""Sessions and their operations, independent of the transport (HTTP, WebSocket or MCP)."""
