"""Clients that stall, flood or fill a server: each attack ends, and the server answers others meanwhile."""

import asyncio
import base64
import contextlib
import socket
import struct
import threading
import time

import pytest
import uvicorn

from arlarena.proto.http.bounded import HttpLimits, bounded

LIMITS = {"body_bytes": 1 << 20, "header_s": 0.5, "body_s": 0.5, "write_s": 1.0, "held_bytes": 4 << 20}
OK = b"HTTP/1.1 200"


async def app(scope, receive, send):
    """`/` reads the body and answers its length; `/32` answers 32 KiB; a socket echoes after 0.05 s."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    if scope["type"] == "websocket":
        return await echo(receive, send)
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        size, more = size + len(message["body"]), message.get("more_body", False)
    body = bytes(int(scope["path"][1:]) << 10) if scope["path"] != "/" else str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await asyncio.sleep(0.05)
        await send({"type": "websocket.send", "text": str(len(message.get("text") or message["bytes"]))})


class Running:
    """A server in a thread."""

    def __init__(self, **limits):
        options = bounded(HttpLimits(**{**LIMITS, **limits}))
        self.shared = options["http"].shared
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.address = self.listener.getsockname()
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1, **options))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        until(lambda: self.server.started, "the server has started")

    def connect(self):
        made = socket.create_connection(self.address, timeout=10)
        made.settimeout(10)
        return made

    def healthy(self):
        """Whether a new client is answered within a second."""
        began = time.monotonic()
        with self.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            return client.recv(1000).startswith(OK) and time.monotonic() - began < 1

    def stop(self):
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:

        def make(**limits):
            running = Running(**limits)
            stack.callback(running.stop)
            return running

        yield make


def until(condition, what, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


def everything(client):
    """What comes until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def drip(client, data, pause=0.05):
    """Send byte by byte until the server closes. Returns what it said."""
    client.settimeout(pause)
    answer = b""
    for byte in data:
        with contextlib.suppress(TimeoutError):
            try:
                client.sendall(bytes([byte]))
                part = client.recv(1000)
            except ConnectionError:
                return answer
            answer += part
            if not part:
                return answer
    raise AssertionError("the server did not close the connection")


def test_headers_that_do_not_arrive_end_the_connection(start):
    server = start()
    begins = (b"", b"\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in begins]
        for client, begin in zip(clients, begins, strict=True):
            client.sendall(begin)
        answers = {begin: everything(client) for client, begin in zip(clients, begins, strict=True)}
    assert [begin for begin, answer in answers.items() if b"408" not in answer] == []


def test_headers_that_come_byte_by_byte_end_the_connection_also_behind_an_answer(start):
    server = start()
    for before in (b"", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"):
        with server.connect() as client:
            client.sendall(before)
            if before:
                assert client.recv(1000).startswith(OK)
            assert b"408" in drip(client, b"GET / HTTP/1.1\r\nx-a: " + b"b" * 1000)


@pytest.mark.parametrize(
    "attack",
    [
        b"GET / HTTP/1.1\r\nx-a: " + b"b" * 200_000,  # one header without end
        b"GET /" + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: 1\r\n" % i for i in range(200)) + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nx-a: " + b"b" * 70_000 + b"\r\n\r\n",
    ],
    ids=["endless", "address", "many", "very_many", "large"],
)
def test_headers_that_are_too_large_or_too_many_are_refused(start, attack):
    server = start()
    with server.connect() as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(attack)
        answer = everything(client)
        assert answer == b"" or b"431" in answer  # a client that still sends may see a reset instead
    assert server.healthy()


def test_headers_within_the_limits_are_served(start):
    server = start()
    with server.connect() as client:
        headers = b"".join(b"x-%d: %s\r\n" % (i, b"v" * 400) for i in range(120))
        client.sendall(b"POST / HTTP/1.1\r\n" + headers + b"content-length: 100000\r\n\r\n" + bytes(100_000))
        assert client.recv(1000).endswith(b"100000")


def test_a_body_that_stalls_ends_the_connection_and_one_that_flows_does_not(start):
    server = start()
    with server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n")
        assert b"408" in drip(client, bytes(1000))
    with server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\ncontent-length: 20000\r\n\r\n")
        for _ in range(10):
            client.sendall(bytes(2000))
            time.sleep(0.1)  # 20 kB/s: longer than body_s in all, and above the rate
        assert client.recv(1000).endswith(b"20000")


def test_unfinished_bodies_of_all_clients_together_have_a_limit(start):
    server = start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(16)]
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"POST / HTTP/1.1\r\ncontent-length: 900000\r\n\r\n" + bytes(800_000))
        until(lambda: 0 < server.shared.held <= 4 << 20, "what is held is within the limit")
        assert server.healthy()
        answers = [everything(client) for client in clients]
    assert sum(b"503" in answer for answer in answers) >= 8
    until(lambda: server.shared.held == 0, "what was held is released")


def test_a_flood_of_connections_shuts_nobody_out(start):
    server = start(connections=50, header_s=30.0)
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(server.connect())
        busy.sendall(b"POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\n")
        clients = [stack.enter_context(server.connect()) for _ in range(300)]
        assert server.healthy()
        until(lambda: server.shared.open <= 50, "connections are within the limit")
        busy.sendall(bytes(10))
        assert busy.recv(1000).endswith(b"10")  # a request that is being served is not the victim
        del clients
    until(lambda: server.shared.open == 0, "no connection is counted")


def test_a_client_that_finds_all_connections_in_use_is_told_which_limit_to_raise(start):
    server = start(connections=2, header_s=30.0, body_s=30.0)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(server.connect()).sendall(b"POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\n")
        until(lambda: server.shared.open == 2 and not server.shared.waiting, "both connections are in use")
        refused = everything(stack.enter_context(server.connect()))
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"all 2 connections are in use: either close some of them, or raise max_connections" in refused
    until(lambda: server.shared.open == 0, "no connection is counted")
    assert server.healthy()


def test_the_limit_of_open_files_is_named_if_it_is_below_the_limit_of_connections():
    shared = bounded(HttpLimits(**{**LIMITS, "connections": 1 << 30}))["http"].shared
    assert shared.connections < 1 << 30
    assert shared.full.endswith("close some of them, or raise the limit of open files (ulimit -n)")


def test_requests_far_ahead_of_their_answers_are_refused(start):
    server = start()
    with server.connect() as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 20_000)
        everything(client)
    with server.connect() as client:  # a few are served in order
        client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 3 + b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
        assert everything(client).count(OK) == 4


@pytest.mark.parametrize("more", [b"", b"connection: close\r\n"], ids=["kept", "closed"])
def test_clients_that_do_not_read_answers_of_any_size_lose_their_connections(start, more):
    """Some answers fit into the buffers of the kernel, some leave a few kilobytes in the server, some leave more."""
    server = start()
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)  # of the connections that it accepts
    sizes = [*range(16, 512, 16), 32 << 10]
    sizes = sizes if hasattr(socket, "TCP_USER_TIMEOUT") else sizes[-1:]  # Linux has it
    with contextlib.ExitStack() as stack:
        for size in sizes:
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(server.address)
            client.sendall(b"GET /%d HTTP/1.1\r\n%s\r\n" % (size, more))
        until(lambda: server.shared.open > 0, "they are connected")
        until(lambda: server.shared.open == 0, "all were cut off")
        client.settimeout(10)
        assert len(everything(client)) < 32 << 20


# --- WebSockets ---


def websocket(server, extensions=b""):
    client = server.connect()
    key = base64.b64encode(bytes(16))
    client.sendall(
        b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: " + key + b"\r\n" + extensions + b"\r\n"
    )
    answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101")
    return client, answer


def frame(payload, opcode=1, final=True):
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + struct.pack(">H", size) if size < 1 << 16 else b"\xff" + struct.pack(">Q", size)
    return bytes([opcode | (0x80 if final else 0)]) + length + bytes(4) + payload


def test_compression_is_not_negotiated(start):
    client, answer = websocket(start(), b"sec-websocket-extensions: permessage-deflate\r\n")
    with client:
        assert b"deflate" not in answer.lower()
        client.sendall(frame(b"x" * 500))
        assert client.recv(100).endswith(b"500")


def test_a_message_that_is_too_large_closes_the_socket_and_so_do_its_fragments(start):
    server = start(frame_bytes=100_000)
    whole = frame(bytes(200_000), 2)
    parts = frame(bytes(60_000), 2, final=False) + frame(bytes(60_000), 0)
    for attack in (whole, parts):
        client, _ = websocket(server)
        with client:
            client.sendall(attack)
            assert struct.pack(">H", 1009) in everything(client)
    assert server.healthy()


def test_unfinished_messages_of_all_sockets_together_have_a_limit(start):
    server = start(frame_bytes=1 << 20)
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(websocket(server)[0])
            with contextlib.suppress(ConnectionError):
                client.sendall(frame(bytes(900_000), 2, final=False))
            assert server.healthy()
        until(lambda: server.shared.open < 10, "some were cut off")
        assert server.shared.held <= 4 << 20
        assert server.healthy()
    until(lambda: server.shared.held == 0 and server.shared.open == 0, "what was held is released")


@pytest.mark.parametrize("payload", [b"", b"x"])
def test_messages_far_ahead_of_their_answers_close_the_socket(start, payload):
    server = start()
    client, _ = websocket(server)
    with client:
        with contextlib.suppress(ConnectionError):
            client.sendall(frame(payload) * 10_000)
        everything(client)
    assert server.healthy()


def test_pings_whose_answers_are_not_read_are_no_longer_read(start):
    server = start()
    client, _ = websocket(server)
    with client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(1)
        sent, pings = 0, frame(b"p" * 125, 9) * 1000
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < 200 << 20:
                client.sendall(pings)
                sent += len(pings)
        assert sent < 100 << 20
        until(lambda: server.shared.open == 0, "it was cut off")
    assert server.healthy()
