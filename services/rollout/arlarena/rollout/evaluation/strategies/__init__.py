"""Strategies: how replies of a model become an action. One file each."""
