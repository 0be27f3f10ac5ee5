"""Images of observations."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from arlarena.proto.env_api import Image

PNG = "image/png"


@dataclass(frozen=True, slots=True)
class Frame:
    """An image. `png`: the bytes of a PNG file. `width`, `height`: the size in pixels."""

    png: bytes
    width: int
    height: int

    def inline(self) -> Image:
        """Return the image for an observation, with the PNG file in base64."""
        digest = hashlib.sha256(self.png).hexdigest()
        return Image(PNG, digest, self.width, self.height, data=base64.b64encode(self.png).decode())
