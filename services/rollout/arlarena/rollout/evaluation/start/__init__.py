"""Turns the command-line options into a plan, and starts the services that the evaluation needs."""
