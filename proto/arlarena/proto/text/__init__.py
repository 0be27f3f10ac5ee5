"""Text for people and from people: secrets, files, numbers, programs."""
