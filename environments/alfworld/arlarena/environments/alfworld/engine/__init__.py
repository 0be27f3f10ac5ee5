"""The engine: TextWorld's games of ALFWorld, to the character."""
