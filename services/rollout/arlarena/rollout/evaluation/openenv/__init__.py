"""Plays environments of OpenEnv servers in evaluations."""
