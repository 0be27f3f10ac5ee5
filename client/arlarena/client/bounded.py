"""Reads responses of untrusted servers. Too large responses, compressed responses and redirects are errors.

    async with session.get(url, headers=IDENTITY, allow_redirects=False) as reply:
        body = await read_bounded(reply, 1 << 20)

`session` must be created with `auto_decompress=False`, because a few kilobytes of gzip may decompress to gigabytes.
"""

from __future__ import annotations

import aiohttp

IDENTITY = {"accept-encoding": "identity"}


class AnswerRefused(aiohttp.ClientError):
    """The response is too large, compressed, or a redirect."""


async def read_bounded(reply: aiohttp.ClientResponse, limit: int) -> bytes:
    """Returns the body of the response `reply`. `limit`: maximum size of the body in bytes.

    Raises:
        AnswerRefused: the response is too large, compressed, or a redirect.
        aiohttp.ClientError: the connection was lost.
    """
    if 300 <= reply.status < 400:
        raise AnswerRefused(
            f"{reply.url} redirects to {reply.headers.get('location')!r}: use this address in the configuration"
        )
    encoding = reply.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise AnswerRefused(f"{reply.url} responded with the encoding {encoding!r}, but only 'identity' is accepted")
    chunks: list[bytes] = []
    size = 0
    async for chunk in reply.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise AnswerRefused(f"{reply.url} responded with more than {limit} bytes")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
