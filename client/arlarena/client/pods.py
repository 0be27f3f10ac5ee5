"""Sends requests about a session directly to the session's pod.

An environment server can run in several pods behind one address. A session's id begins with the number of its pod
(`p3-…`). Each pod also has its own address, for example a DNS name from a Kubernetes StatefulSet. If a pod receives a
request about another pod's session, it forwards the request. This module avoids the forwarding.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from arlarena.client.errors import ServiceError
from arlarena.proto.env_api import BatchItem
from arlarena.proto.http.addresses import service_url

# The beginning of the id of a session or snapshot: the pod's number, and in pods with several workers the worker's
# number, for example `p3-` or `p3w1-`.
_HOLDER = re.compile(r"p(\d{1,6})(?:w\d{1,6})?-")
# Maximum number of characters of all actions in a request. They take at most 3 MiB of JSON. Servers accept 4 MiB.
MAX_CHARS = 1 << 19

Request = tuple[str | None, list[int]]  # (URL of a pod, or None for the server's address; positions of the items)
Result = TypeVar("Result")


class PodAddresses:
    """The addresses of the pods of one server."""

    def __init__(self, template: str | None) -> None:
        """`template`: URL of a pod, with `{pod}` in place of the pod's number. If it is None, all requests use the
        server's address.

        Raises:
            TypeError, ValueError: `template` is not a URL with `{pod}`.
        """
        if template is not None:
            service_url(template.replace("{pod}", "0"))
            if "{pod}" not in template:
                raise ValueError(f"pods = {template!r} lacks {{pod}}: write for example http://env-{{pod}}.env:8000")
        self._template = template

    def of(self, name: str) -> str | None:
        """Returns the URL of the pod that has the session or snapshot with the id `name`.

        Returns None if the caller must use the server's address, because the pod or its URL is unknown.
        """
        found = _HOLDER.match(name) if self._template is not None else None
        return service_url(str(self._template).replace("{pod}", found[1])) if found else None

    def split(self, items: Sequence[BatchItem]) -> list[Request]:
        """Split the items of a batch into requests. Returns the URL and the positions of the items of each request.

        All items of a request belong to one pod. Their actions have at most `MAX_CHARS` characters in total. An item
        with a longer action is sent alone.
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
    """Send the requests at the same time. Returns one result for each item, in the order of `items`.

    `send`: sends items to a URL. If a request fails, each of its items gets the error as its result. Other requests are
    not affected.
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
