"""Answers of servers that are not trusted: of limited size, not decompressed, and redirects are not followed.

    async with session.get(url, headers=IDENTITY, allow_redirects=False) as reply:
        body = await read_bounded(reply, 1 << 20)

The session has `auto_decompress=False`: a few kilobytes of gzip may stand for gigabytes.
"""

from __future__ import annotations

import aiohttp

IDENTITY = {"accept-encoding": "identity"}


class AnswerRefused(aiohttp.ClientError):
    """An answer that is not read: too large, compressed, or a redirect."""


async def read_bounded(reply: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, of at most `limit` bytes.

    Raises:
        AnswerRefused: see there. aiohttp.ClientError: the connection broke.
    """
    if 300 <= reply.status < 400:
        raise AnswerRefused(f"{reply.url} redirects to {reply.headers.get('location')!r}: give the address itself")
    encoding = reply.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise AnswerRefused(f"{reply.url} answered in the encoding {encoding!r}, which was not asked for")
    chunks: list[bytes] = []
    size = 0
    async for chunk in reply.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise AnswerRefused(f"{reply.url} answered more than {limit} bytes")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
