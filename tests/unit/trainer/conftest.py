"""Small synthetic groups and a tiny policy (see `trainer_support`)."""

from support.trainer.trainer_support import make_group, policy, tiny_directory

__all__ = ["make_group", "policy", "tiny_directory"]
