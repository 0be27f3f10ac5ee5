"""The images of an evaluation: files in images/, named by their hash."""

from __future__ import annotations

import re
from pathlib import Path

from arlarena.rollout.evaluation.directory import IMAGES

# Names come from records. A name must not lead to another folder.
_NAME = re.compile(r"[0-9A-Za-z_-]{1,128}\.(png|jpg|jpeg)")


def media_type(name: str) -> str:
    """Returns the media type of the file `name`."""
    return "image/png" if name.endswith(".png") else "image/jpeg"


def read_image(evaluation: Path, name: str) -> bytes | None:
    """Returns the bytes of an image. `evaluation`: directory of the evaluation.

    Returns None if the name is not that of an image, or if the file cannot be read.
    """
    if not _NAME.fullmatch(name):
        return None
    try:
        return (evaluation / IMAGES / name).read_bytes()
    except OSError:
        return None
