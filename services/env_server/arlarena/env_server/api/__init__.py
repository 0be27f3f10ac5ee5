"""HTTP, WebSocket and MCP: reading requests, writing replies."""
