"""Sokoban as a text game: generated rooms, a solver as expert, and the rewards of the ARLArena paper."""
