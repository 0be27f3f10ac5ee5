"""Sessions and their operations. This package does not depend on the transport (HTTP, WebSocket or MCP)."""
