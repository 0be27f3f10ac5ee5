"""Games in files: official ones, and ours written in their format."""
