"""Makes `inference_support` importable for the tests of this folder."""
