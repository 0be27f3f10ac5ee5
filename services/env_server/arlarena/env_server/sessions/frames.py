"""Stores frames (images) by their SHA-256. A URL contains the hash, so clients may cache its image forever."""

from __future__ import annotations

import base64
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from arlarena.env_server.errors import unknown_frame
from arlarena.proto.env_api import Image, Observation


@dataclass(slots=True)
class _StoredFrame:
    """A PNG file. `tenants`: the tenants that got this file in an observation. Only these tenants can read the file."""

    png: bytes
    tenants: set[str | None]


class FrameStore:
    """The most recently used frames, with a total size of at most `capacity_bytes`. A tenant (see `api.access`) can
    read only frames that this tenant got in an observation.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._used = 0
        self._frames: OrderedDict[str, _StoredFrame] = OrderedDict()

    def by_url(self, observation: Observation, tenant: str | None = None) -> Observation:
        """Store the frames of an observation. Returns the observation with URLs in place of the frames."""
        images = [self._store(image, tenant) for image in observation.images]
        return msgspec.structs.replace(observation, images=images)

    def get(self, digest: str, tenant: str | None = None) -> bytes:
        """Returns the PNG file of a frame. `digest`: the SHA-256 of the file, in hexadecimal.

        Raises:
            ApiError: 404 if the frame is not stored, or if the tenant never got it in an observation.
        """
        frame = self._frames.get(digest)
        if frame is None or tenant not in frame.tenants:
            raise unknown_frame(digest)
        self._frames.move_to_end(digest)
        return frame.png

    def _store(self, image: Image, tenant: str | None) -> Image:
        if image.data is None:
            return image
        if image.sha256 in self._frames:
            self._frames.move_to_end(image.sha256)
        else:
            self._frames[image.sha256] = _StoredFrame(base64.b64decode(image.data), set())
            self._used += len(self._frames[image.sha256].png)
            while self._used > self._capacity and len(self._frames) > 1:
                self._used -= len(self._frames.popitem(last=False)[1].png)
        self._frames[image.sha256].tenants.add(tenant)
        return msgspec.structs.replace(image, data=None, url=f"/v1/frames/{image.sha256}.png")
