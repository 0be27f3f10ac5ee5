"""Recognizes a local checkpoint that is given as MODEL, and names it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from arlarena.proto.config import ConfigError
from arlarena.rollout.evaluation.start.players import SCRIPTED

CONFIG = "config.json"
# Suffixes of the files that determine a policy's replies.
SUFFIXES = (".json", ".jinja", ".model", ".safetensors", ".txt")


def is_checkpoint(model: str) -> bool:
    """Return whether MODEL is a folder. The names of players, such as `expert`, are never checkpoints."""
    return model not in SCRIPTED and Path(model).expanduser().is_dir()


def checkpoint_name(model: str) -> str:
    """Return `checkpoint/NAME@HASH`. Checkpoints with different weights have different names.

    NAME is the name of the folder. HASH is a hash of the names and contents of all files with a suffix in `SUFFIXES`.

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
