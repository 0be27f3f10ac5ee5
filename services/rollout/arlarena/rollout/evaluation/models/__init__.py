"""Adapters for models behind an API. Each adapter uses the vendor's client library (SDK)."""
