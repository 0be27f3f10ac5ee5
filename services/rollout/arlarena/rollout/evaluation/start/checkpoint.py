"""A local checkpoint as MODEL: its identity, and the policy server that is started for it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from arlarena.proto.config import ConfigError
from arlarena.rollout.evaluation.start.players import SCRIPTED

CONFIG = "config.json"
SUFFIXES = (".json", ".jinja", ".model", ".safetensors", ".txt")  # files that determine the replies of a policy


def is_checkpoint(model: str) -> bool:
    """Return whether MODEL is a folder. A player such as `expert` is not, even if a folder has this name."""
    return model not in SCRIPTED and Path(model).expanduser().is_dir()


def checkpoint_name(model: str) -> str:
    """Return `checkpoint/NAME@HASH`. The hash is over the contents of the files, so other weights have another name.

    Raises:
        ConfigError: the folder has no config.json, so it is not in the Hugging Face format.
    """
    folder = Path(model).expanduser().resolve()
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{model}: has no {CONFIG}, so it is not a checkpoint in the Hugging Face format")
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return f"checkpoint/{folder.name}@{digest.hexdigest()}"
