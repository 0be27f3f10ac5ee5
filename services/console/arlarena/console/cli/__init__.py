"""The `arlarena` command."""
