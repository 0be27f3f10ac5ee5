"""Prints the open TCP ports of the hosts on the command line, as JSON: {host: [port, ...]}. It runs in a container.

A host that has no address is printed with `null`. A port is closed if it does not accept a connection in `TIMEOUT_S`.
"""

import errno
import itertools
import json
import select
import socket
import sys
import time
from collections.abc import Iterable, Iterator

CONCURRENT, TIMEOUT_S = 400, 3.0


def open_ports(address: str, ports: Iterable[int]) -> Iterator[int]:
    remaining = iter(ports)
    while batch := list(itertools.islice(remaining, CONCURRENT)):
        yield from accepted(address, batch)


def accepted(address: str, ports: list[int]) -> Iterator[int]:
    connecting, poll = {}, select.poll()
    for port in ports:
        connection = socket.socket()
        connection.setblocking(False)
        if connection.connect_ex((address, port)) in (0, errno.EINPROGRESS):
            connecting[connection.fileno()] = (connection, port)
            poll.register(connection, select.POLLOUT)
        else:
            connection.close()
    deadline = time.monotonic() + TIMEOUT_S
    while connecting and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(1000 * left):
            connection, port = connecting.pop(descriptor)
            poll.unregister(descriptor)
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                yield port
            connection.close()
    for connection, _ in connecting.values():
        connection.close()


def scan(host: str, ports: range) -> list[int] | None:
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return None
    return sorted(open_ports(address, ports))


first, last, *hosts = sys.argv[1:]
print(json.dumps({host: scan(host, range(int(first), int(last) + 1)) for host in hosts}))
