"""A number to guess: a whole environment on one page, to copy from."""
