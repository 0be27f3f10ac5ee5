"""Small made-up groups and a tiny policy (see `trainer_support`)."""

from trainer_support import make_group, tiny_directory

__all__ = ["make_group", "tiny_directory"]
