"""Game files: official games, and generated games in the same format."""
