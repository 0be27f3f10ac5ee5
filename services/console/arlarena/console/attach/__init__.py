"""Runs whose services run elsewhere, for example in containers: `arlarena up --attach` and `arlarena join`."""
