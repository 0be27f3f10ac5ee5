"""Sokoban as text: rooms by reverse play, splits by room, a solver as expert, the paper's rewards and horizon."""
