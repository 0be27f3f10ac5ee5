"""Frames by their hash: sent once by URL, and cached by whoever asks, for a hash never changes its picture."""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from arlarena.env_server.errors import unknown_frame
from arlarena.proto.env import Image, Observation

PNG = "image/png"


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture: the PNG file, and its size in pixels."""

    png: bytes
    width: int
    height: int

    def inline(self) -> Image:
        """The picture as an observation carries it, the file in it as base64."""
        digest = hashlib.sha256(self.png).hexdigest()
        return Image(PNG, digest, self.width, self.height, data=base64.b64encode(self.png).decode())


class FrameStore:
    """The most recent frames, up to `capacity_bytes`."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._used = 0
        self._frames: OrderedDict[str, bytes] = OrderedDict()

    def by_url(self, seen: Observation) -> Observation:
        """The observation with URLs in the place of its frames, which are kept here."""
        return msgspec.structs.replace(seen, images=[self._keep(image) for image in seen.images])

    def get(self, digest: str) -> bytes:
        """A frame's file.

        Raises:
            ApiError: 404.
        """
        if digest not in self._frames:
            raise unknown_frame(digest)
        self._frames.move_to_end(digest)
        return self._frames[digest]

    def _keep(self, image: Image) -> Image:
        if image.data is None:
            return image
        if image.sha256 in self._frames:
            self._frames.move_to_end(image.sha256)
        else:
            self._frames[image.sha256] = base64.b64decode(image.data)
            self._used += len(self._frames[image.sha256])
            while self._used > self._capacity and len(self._frames) > 1:
                self._used -= len(self._frames.popitem(last=False)[1])
        return msgspec.structs.replace(image, data=None, url=f"/v1/frames/{image.sha256}.png")
