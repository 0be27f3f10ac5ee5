"""Stores frames (images) by their hash. The image behind a URL never changes, so clients may cache the image."""

from __future__ import annotations

import base64
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from arlarena.env_server.errors import unknown_frame
from arlarena.proto.env_api import Image, Observation


@dataclass(slots=True)
class _Kept:
    """A PNG file and the tenants to whom this frame was shown."""

    png: bytes
    tenants: set[str | None]


class FrameStore:
    """The most recently used frames, up to `capacity_bytes` of PNG files. A tenant can read only frames that were shown
    to this tenant.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._used = 0
        self._frames: OrderedDict[str, _Kept] = OrderedDict()

    def by_url(self, seen: Observation, tenant: str | None = None) -> Observation:
        """Store the frames of an observation. Returns the observation with URLs in the place of the frames."""
        return msgspec.structs.replace(seen, images=[self._keep(image, tenant) for image in seen.images])

    def get(self, digest: str, tenant: str | None = None) -> bytes:
        """Returns the PNG file of a frame. `digest`: the frame's hash.

        Raises:
            ApiError: 404, the frame is not stored or was not shown to the tenant.
        """
        kept = self._frames.get(digest)
        if kept is None or tenant not in kept.tenants:
            raise unknown_frame(digest)
        self._frames.move_to_end(digest)
        return kept.png

    def _keep(self, image: Image, tenant: str | None) -> Image:
        if image.data is None:
            return image
        if image.sha256 in self._frames:
            self._frames.move_to_end(image.sha256)
        else:
            self._frames[image.sha256] = _Kept(base64.b64decode(image.data), set())
            self._used += len(self._frames[image.sha256].png)
            while self._used > self._capacity and len(self._frames) > 1:
                self._used -= len(self._frames.popitem(last=False)[1].png)
        self._frames[image.sha256].tenants.add(tenant)
        return msgspec.structs.replace(image, data=None, url=f"/v1/frames/{image.sha256}.png")
