"""Runs whose services are started elsewhere, for example in containers: `arlarena up --attach` and `arlarena join`."""
