"""The environment server: sessions of one environment over HTTP and WebSocket."""
