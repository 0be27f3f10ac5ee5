"""Loads images of observations from the environment server, and writes them to files in images/."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Literal

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import ProtocolError, Unavailable
from arlarena.proto.atomic_files import write_bytes
from arlarena.proto.env_api import Image, Observation
from arlarena.rollout.evaluation.directory import IMAGES
from arlarena.rollout.evaluation.models.protocol import PictureBytes

SUFFIXES: dict[str, str] = {"image/png": "png", "image/jpeg": "jpg"}


async def load_frame(client: EnvironmentClient, url: str) -> bytes:
    """Return an image from the environment server. `url`: a path on the server, from `Image.url`.

    Raises:
        Unavailable: the server is unreachable or failing, or no longer has the image. After a replay of the episode,
            the server has the image again.
    """
    answer = await client.transport.request("GET", url, retries=client.retries)
    if answer.status != 200:
        raise Unavailable(str(answer.refusal()))
    return answer.body


class PictureStore:
    """Loads the images of observations, and writes each image to one file. The file's name is the image's SHA-256."""

    def __init__(self, directory: Path, fetch: Callable[[str], Awaitable[bytes]]) -> None:
        """`directory`: the evaluation's directory. `fetch`: returns the image at a path on the environment server."""
        self._folder, self._fetch = directory / IMAGES, fetch

    @classmethod
    def of(cls, directory: Path, client: EnvironmentClient) -> PictureStore:
        """Return a store that loads images with `client`."""
        return cls(directory, partial(load_frame, client))

    async def load(self, observation: Observation) -> tuple[tuple[str, ...], tuple[PictureBytes, ...]]:
        """Return the names of the image files, and the images.

        Raises:
            ServiceError: the server did not return an image, or returned an image with another hash or format.
            OSError: a file cannot be written.
        """
        loaded = [await self._load(image) for image in observation.images]
        return tuple(name for name, _ in loaded), tuple(picture for _, picture in loaded)

    async def _load(self, image: Image) -> tuple[str, PictureBytes]:
        kind: Literal["image/png", "image/jpeg"] = "image/jpeg" if image.mime == "image/jpeg" else "image/png"
        if image.mime not in SUFFIXES:
            raise ProtocolError(f"an observation has an image of type {image.mime!r}; only PNG and JPEG can be used")
        path = self._folder / f"{image.sha256}.{SUFFIXES[kind]}"
        if path.exists():
            return path.name, PictureBytes(kind, await asyncio.to_thread(path.read_bytes))
        data = await self._bytes(image)
        digest = hashlib.sha256(data).hexdigest()
        if digest != image.sha256:
            raise ProtocolError(f"an image has the SHA-256 {digest}, but the observation reports {image.sha256}")
        self._folder.mkdir(exist_ok=True)
        write_bytes(path, data)
        return path.name, PictureBytes(kind, data)

    async def _bytes(self, image: Image) -> bytes:
        if image.data is None:
            if image.url is None:
                raise ProtocolError("an observation has an image without data and URL")
            return await self._fetch(image.url)
        try:
            return base64.b64decode(image.data, validate=True)
        except binascii.Error as error:
            raise ProtocolError(f"an observation has an image that is not base64: {error}") from error
