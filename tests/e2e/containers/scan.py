"""Prints the open TCP ports of the hosts on the command line, as JSON: {host: [port, ...]}. It runs in a container.

A host that has no address is printed with `null`.
"""

import asyncio
import json
import socket
import sys

CONCURRENT, TIMEOUT_S = 400, 3.0


async def is_open(address: str, port: int, limit: asyncio.Semaphore) -> bool:
    async with limit:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), TIMEOUT_S)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


async def scan(host: str, ports: range) -> list[int] | None:
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return None
    limit = asyncio.Semaphore(CONCURRENT)
    answers = await asyncio.gather(*(is_open(address, port, limit) for port in ports))
    return [port for port, answer in zip(ports, answers, strict=True) if answer]


async def main() -> None:
    first, last, *hosts = sys.argv[1:]
    ports = range(int(first), int(last) + 1)
    print(json.dumps({host: await scan(host, ports) for host in hosts}))


asyncio.run(main())
