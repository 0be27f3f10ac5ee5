"""The native engine for ALFWorld's games. It gives exactly the same texts as TextWorld."""
