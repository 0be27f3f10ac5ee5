"""Runs with services that run elsewhere, for example in containers: `arlarena up --attach`, `arlarena join`."""
