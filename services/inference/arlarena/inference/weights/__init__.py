"""Version directories: which there are, and whether they are whole."""
