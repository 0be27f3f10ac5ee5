"""The native engine for ALFWorld's games. This engine gives exactly the same texts as TextWorld."""
