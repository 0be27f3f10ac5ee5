"""Sends requests about a session directly to the pod of the environment server that holds the session.

An environment server can run in several pods behind one address. A session's id begins with the number of its pod
(`p3-…`). Each pod has an address of its own, for example the DNS name that a Kubernetes StatefulSet gives to its pods.
A pod also forwards requests about sessions of other pods. A client that knows the addresses saves this detour.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from arlarena.client.errors import ServiceError
from arlarena.proto.env_api import BatchItem
from arlarena.proto.http.addresses import service_url

# The beginning of the id of a session or a snapshot, for a pod with one worker or with several workers.
_HOLDER = re.compile(r"p(\d{1,6})(?:w\d{1,6})?-")
# Actions with this many characters take at most 3 MiB of JSON. Servers accept 4 MiB.
MAX_CHARS = 1 << 19

Request = tuple[str | None, list[int]]  # the URL of a pod (None: the server), and positions of items
Result = TypeVar("Result")


class PodAddresses:
    """The addresses of the pods of one server."""

    def __init__(self, template: str | None) -> None:
        """`template`: URL of a pod with {pod} in the place of its number; None: all requests use the server's address.

        Raises:
            TypeError, ValueError: `template` is not such a URL.
        """
        if template is not None:
            service_url(template.replace("{pod}", "0"))
            if "{pod}" not in template:
                raise ValueError(f"pods = {template!r} lacks {{pod}}: write http://sokoban-{{pod}}.sokoban:8000")
        self._template = template

    def of(self, name: str) -> str | None:
        """Returns the URL of the pod that holds a session or snapshot, or None for the server's address."""
        found = _HOLDER.match(name) if self._template is not None else None
        return service_url(str(self._template).replace("{pod}", found[1])) if found else None

    def split(self, items: Sequence[BatchItem]) -> list[Request]:
        """Split the items of a batch into requests. Returns the URL and the positions of the items of each request.

        The items of a request are in one pod and have at most `MAX_CHARS` characters of actions, except if one item
        alone has more.
        """
        by_pod: dict[str | None, list[int]] = {}
        for position, item in enumerate(items):
            by_pod.setdefault(self.of(item.session_id), []).append(position)
        return [(url, part) for url, positions in by_pod.items() for part in _parts(items, positions)]


async def send_split(
    requests: Sequence[Request],
    items: Sequence[BatchItem],
    send: Callable[[Sequence[BatchItem], str | None], Awaitable[Sequence[Result | ServiceError]]],
) -> list[Result | ServiceError]:
    """Send the requests at the same time. Returns the results in the order of `items`.

    If a request fails, its error is the result of its items, because the other pods may have answered.
    """

    async def outcome(url: str | None, positions: list[int]) -> Sequence[Result | ServiceError]:
        try:
            return await send([items[position] for position in positions], url)
        except ServiceError as error:
            return [error] * len(positions)

    answers = await asyncio.gather(*(outcome(url, positions) for url, positions in requests))
    pairs = [
        pair for (_, part), answer in zip(requests, answers, strict=True) for pair in zip(part, answer, strict=True)
    ]
    return [result for _, result in sorted(pairs, key=lambda pair: pair[0])]


def _parts(items: Sequence[BatchItem], positions: Sequence[int]) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    chars = 0
    for position in positions:
        action = items[position].action
        size = len(action.text) if action else 0
        if parts[-1] and chars + size > MAX_CHARS:
            parts.append([])
            chars = 0
        parts[-1].append(position)
        chars += size
    return parts
