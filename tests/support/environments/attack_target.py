"""An environment server under attack. The test monitors its health and its memory."""

import base64
import http.client
import socket
from urllib.parse import urlsplit

import psutil
from support.processes.health_watch import HealthWatch

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: " + base64.b64encode(bytes(16)).decode() + "\r\n{more}\r\n"
)


class Target:
    """A server under attack. It is monitored inside the `with` block."""

    def __init__(self, address, process):
        self._url, self._pid = address, process.pid
        self.address = (urlsplit(address).hostname, urlsplit(address).port)

    def __enter__(self):
        for _ in range(8):  # warm-up: the memory of the first requests does not count as growth
            self.post("/reset", b"{}")
        self._watch = HealthWatch(self._url, self._pid)
        self._watch.__enter__()
        return self

    def __exit__(self, *error):
        self._watch.__exit__(*error)

    def request(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def post(self, path, body, headers=None):
        return self.request("POST", path, body, headers)

    def descriptors(self):
        """Return the number of open descriptors of the server process, including connections."""
        return psutil.Process(self._pid).num_fds()

    def connect(self):
        return socket.create_connection(self.address, timeout=30)

    def websocket(self, more=""):
        made = self.connect()
        made.sendall(HANDSHAKE.format(path="/ws", more=more).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += made.recv(4096)
        return made, head
