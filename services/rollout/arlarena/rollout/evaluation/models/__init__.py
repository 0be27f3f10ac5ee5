"""Adapters for models behind an API. Requests use the vendor's client library (SDK), except to compatible servers."""
