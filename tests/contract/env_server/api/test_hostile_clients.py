"""Clients that flood, stall or fill an environment server: it answers others within a second, and its memory stays."""

import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import pytest
from support.environments.attack_target import Target
from support.environments.environment_support import environment_server

LARGEST = 4 << 20  # the default max_body_bytes
MOST_CONNECTIONS = 1200
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    variables = {
        "ARLARENA_ENVIRONMENT_MAX_BODY_BYTES": str(LARGEST),
        "ARLARENA_ENVIRONMENT_MAX_CONNECTIONS": str(MOST_CONNECTIONS),
    }
    folder = tmp_path_factory.mktemp("hostile")
    with environment_server(folder, capacity=1024, variables=variables) as (address, process):
        yield address, process


@pytest.fixture
def target(server):
    return Target(*server)


def header(length, first=0x81):
    """The beginning of a masked frame, with a mask of zeros."""
    size = struct.pack("!BQ", 0xFF, length) if length > 0xFFFF else struct.pack("!BH", 0xFE, length)
    return bytes((first,)) + size + bytes(4)


def push(connection, data):
    """Send as much as the server takes."""
    with contextlib.suppress(OSError):
        connection.sendall(data)


def test_sockets_do_not_inflate(target):
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    bomb = packer.compress(bytes(LARGEST - 1)) + packer.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 16_000
    with target, contextlib.ExitStack() as stack:
        for _ in range(4):
            made, head = target.websocket(DEFLATE)
            stack.enter_context(made)
            assert b"sec-websocket-extensions" not in head.lower()
            for _ in range(30):
                push(made, header(len(bomb), 0xC1) + bomb)


@pytest.mark.slow  # 500 sockets send 1 MiB each
def test_frames_that_never_end(target):
    part = bytes(1 << 20)
    with target, contextlib.ExitStack() as stack:
        for _ in range(500):
            made, _ = target.websocket()
            stack.enter_context(made)
            made.settimeout(0.2)
            push(made, header(LARGEST) + part)


def test_messages_of_a_million_fragments(target):
    with target, contextlib.ExitStack() as stack:
        for _ in range(4):
            made, _ = target.websocket()
            stack.enter_context(made)
            push(made, b"\x01\x81\0\0\0\0a" + b"\x00\x81\0\0\0\0a" * 1_000_000)


def closed_for_others(connection):
    """Whether the server has closed an idle connection without an answer: after a time-out it would answer 408."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_more_connections_than_there_may_be(target):
    with target, contextlib.ExitStack() as stack:
        before = target.descriptors()
        made = [stack.enter_context(target.connect()) for _ in range(3000)]
        until(lambda: sum(map(closed_for_others, made)) >= len(made) - MOST_CONNECTIONS)
        # Besides the idle ones: the connection of the health watch, and one that is accepted but not yet closed.
        assert MOST_CONNECTIONS // 2 < target.descriptors() - before <= MOST_CONNECTIONS + 2


def test_headers_without_end(target):
    with target, contextlib.ExitStack() as stack:
        for _ in range(200):
            made = stack.enter_context(target.connect())
            push(made, b"GET /health HTTP/1.1\r\n" + b"x-%s: 1\r\n" % (b"y" * 60_000))
        many = "".join(f"x-{number}: 1\r\n" for number in range(1000))
        made = stack.enter_context(target.connect())
        push(made, f"GET /health HTTP/1.1\r\n{many}\r\n".encode())
        assert made.recv(100).startswith(b"HTTP/1.1 431")


def test_bodies_that_do_not_arrive(target):
    with target, contextlib.ExitStack() as stack:
        for _ in range(300):
            made = stack.enter_context(target.connect())
            made.settimeout(0.5)
            push(made, b"POST /v1/batch HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % LARGEST + bytes(400_000))


ITEM = b'{"session_id":"0-x","op":"state"}'


def repeated(part, before=b"", after=b"", joint=b","):
    """A body of nearly the largest size."""
    count = (LARGEST - len(before) - len(after) - 1) // (len(part) + len(joint))
    return before + joint.join([part] * count) + after


BODIES = {
    "lists": ("/v1/batch", repeated(b"[]", b"[", b"]")),
    "items": ("/v1/batch", repeated(ITEM, b'{"items":[', b"]}")),
    "empty items": ("/v1/batch", repeated(b"{}", b'{"items":[', b"]}")),
    "texts": ("/v1/batch", repeated(b'""', b'{"items":[', b"]}")),
    "resets": ("/v1/sessions", repeated(b"{}", b'{"reset":[', b"]}")),
    "metadata": ("/step", repeated(b"[]", b'{"action":{"text":"up","metadata":{"a":[', b"]}}}")),
    "numbers": ("/step", repeated(b"9" * 4200, b'{"action":{"text":"up","metadata":{"a":[', b"]}}}")),
    "one number": ("/step", b'{"action":{"text":"up"},"step_index":' + b"9" * (LARGEST - 100) + b"}"),
    "deep": ("/step", b'{"action":{"text":"up","metadata":{"a":' + b"[" * (LARGEST - 100)),
    "rpc": ("/mcp", repeated(b"[]", b'{"jsonrpc":"2.0","method":"ping","params":{"a":[', b"]}}")),
    "rpc numbers": ("/mcp", repeated(b"9" * 4200, b'{"jsonrpc":"2.0","method":"ping","params":{"name":[', b"]}}")),
    "rpc id": ("/mcp", repeated(b"[]", b'{"jsonrpc":"2.0","method":"ping","id":[', b"]}")),
    "escapes": ("/v1/batch", b'{"items":["' + b'\\",[{' * (LARGEST // 5 - 100)),
    "white space": ("/v1/batch", b'{"items":[' + b" " * (LARGEST - 400_000) + b"[]," * 100_000),
}


@pytest.mark.parametrize("kind", BODIES)
def test_bodies_that_become_large(target, kind):
    path, body = BODIES[kind]
    assert LARGEST - 5000 < len(body) <= LARGEST or kind == "white space"
    with target:
        senders = [threading.Thread(target=target.post, args=(path, body)) for _ in range(3)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert target.post(path, body)[0] in (200, 413, 422)


def test_a_batch_of_all_that_is_allowed_is_carried_out(target):
    text = "def f(a, b): return {a: [b, b]}, " * 20
    item = {
        "session_id": "0-nobody",
        "op": "step",
        "action": {"text": text, "metadata": {"a": [1, 2]}},
        "step_index": 1,
    }
    status, body = target.post("/v1/batch", json.dumps({"items": [item] * 4096}).encode())
    assert status == 200
    assert [one["error"]["code"] for one in json.loads(body)["results"]] == ["unknown_session"] * 4096


NAMES = (
    "", "../../etc/passwd", "%00", "0-" + "a" * 3000, "0w1-x", "0w999999-x", "p1-x", "p999999w9-x", "0-\u202e", "'; --",
    "{0.__class__}", "%s%s%n", "\\", "\r\nset-cookie: a=b",
)  # fmt: skip


def test_hostile_names_of_sessions_are_unknown(target):
    with target:
        items = [{"session_id": name, "op": "state"} for name in NAMES]
        status, body = target.post("/v1/batch", json.dumps({"items": items}).encode())
        assert status == 200
        assert {one["error"]["code"] for one in json.loads(body)["results"]} == {"unknown_session"}
        for name in filter(None, NAMES):
            made = target.connect()
            raw = "".join(f"%{byte:02x}" for byte in name.encode())
            made.sendall(f"GET /v1/sessions/{raw} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda made=made: made.recv(65536), b""))
            assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405", b"HTTP/1.1 307")), answer
            assert b"\r\nset-cookie" not in answer
            made.close()


def test_noise(target):
    source = random.Random(1)
    with target, contextlib.ExitStack() as stack:
        for _ in range(300):
            made = stack.enter_context(target.connect())
            push(made, source.randbytes(2000))
        for _ in range(100):
            made, _ = target.websocket()
            stack.enter_context(made)
            push(made, source.randbytes(2000))


# --- whose requests are whose ---


def test_pages_of_other_origins_are_refused(target):
    host, port = target.address
    reset, listed = b"{}", b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
    for origin in ("https://evil.example", "null", f"http://{host}:1", f"http://{host}:{port}.evil.example", "file:"):
        for path, body in (
            ("/reset", reset),
            ("/mcp", listed),
            ("/v1/sessions", reset),
            ("/v1/batch", b'{"items":[]}'),
        ):
            status, answer = target.post(path, body, {"Origin": origin, "Content-Type": "text/plain"})
            assert (status, json.loads(answer)["code"]) == (403, "cross_origin"), (origin, path)
        assert target.request("DELETE", "/v1/sessions/x", headers={"Origin": origin})[0] == 403
        made, head = target.websocket(f"Origin: {origin}\r\n")
        with made:
            answer = head
            while b"SESSION_ERROR" not in answer:  # it may come with the head
                more = made.recv(4096)
                assert more, answer
                answer += more
    # A name that somebody else has made to lead here is not the server's own.
    rebound = {"Origin": f"http://evil.example:{port}", "Host": f"evil.example:{port}"}
    assert target.post("/reset", reset, rebound)[0] == 403
    assert target.post("/reset", reset, {"Origin": f"http://{host}:{port}"})[0] == 200
    assert target.post("/mcp", listed, {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"})[0] == 200
    assert target.post("/reset", reset)[0] == 200


def test_a_forwarded_address_counts_from_trusted_proxies_alone(tmp_path):
    def opened(target, forwarded):
        return target.post("/v1/sessions", b"{}", {"X-Forwarded-For": forwarded})[0]

    limit = {"ARLARENA_ENVIRONMENT_MAX_SESSIONS_PER_CLIENT": "2"}
    with environment_server(tmp_path, variables=limit) as (address, process):
        target = Target(address, process)
        assert [opened(target, f"198.51.100.{number}") for number in range(3)] == [200, 200, 429]
    proxies = 'trusted_proxies = ["127.0.0.0/8", "203.0.113.7"]\n'
    with environment_server(tmp_path, extra=proxies, variables=limit) as (address, process):
        target = Target(address, process)
        assert [opened(target, f"198.51.100.{number}") for number in range(3)] == [200, 200, 200]
        # What a client has written itself stands before what the proxies add.
        assert opened(target, "192.0.2.1, 198.51.100.9, 203.0.113.7") == 200
        assert opened(target, "192.0.2.2, 198.51.100.9") == 200
        assert opened(target, "192.0.2.3, 198.51.100.9, 203.0.113.7, 127.0.0.1") == 429


def test_a_connection_that_is_reset_at_once_is_no_fellow_worker(tmp_path):
    """Its address cannot be asked for any more when its request is read; neither can that of a Unix socket."""
    variables = {"ARLARENA_ENVIRONMENT_TOKEN": "secret"}
    with environment_server(tmp_path, arguments=("--workers", "2"), variables=variables) as (address, process):
        target = Target(address, process)
        mine = {"Authorization": "Bearer secret"}
        name = json.loads(target.post("/v1/sessions", b"{}", mine)[1])["sessions"][0]["session_id"]
        body = b'{"count":1}'
        forged = b"host: x\r\nx-arlarena-hop: 1\r\nx-arlarena-tenant: token\r\n"
        requests = (
            b"DELETE /v1/sessions/%s HTTP/1.1\r\n%s\r\n" % (name.encode(), forged),
            b"POST /v1/sessions HTTP/1.1\r\ncontent-length: %d\r\n%s\r\n%s" % (len(body), forged, body),
        )
        for _ in range(100):
            for request in requests:
                made = target.connect()
                made.sendall(request)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                made.close()
        listed = json.loads(target.request("GET", "/v1/sessions", headers=mine)[1])["sessions"]
        assert [one["session_id"] for one in listed] == [name]
        assert json.loads(target.request("GET", "/v1/capacity", headers=mine)[1])["active_sessions"] == 1


# --- threads that are lost ---

STUCK = """
import sys, time
from pathlib import Path
from arlarena.env_server.__main__ import main
from arlarena.environments.guess.environment import Guess, GuessEnvironment

class Stuck(GuessEnvironment):
    blocking = True
    def game(self, task):
        while task.index == 1 and not Path(sys.argv[2]).exists():
            time.sleep(0.01)
        return super().game(task)

def load(where, options): return Stuck()

sys.modules["stuck"] = sys.modules["__main__"]
sys.exit(main(["--config", sys.argv[1], "--port", "0"]))
"""


@contextlib.contextmanager
def stuck_server(folder):
    (folder / "stuck.py").write_text(STUCK)
    (folder / "run.toml").write_text(
        '[environment]\nname = "stuck"\nreset_timeout_s = 0.2\npool_threads = 2\nlost_threads_timeout_s = 1.0\n'
        'token = "secret"\n'
    )
    command = [sys.executable, folder / "stuck.py", folder / "run.toml", folder / "allowed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ}) as process:
        try:
            listening = json.loads(process.stdout.readline())
            yield f"http://{listening['host']}:{listening['port']}", process
        finally:
            process.kill()


@pytest.mark.slow  # waits for time-outs
def test_threads_that_are_lost_are_told_and_a_server_without_any_is_unready(tmp_path):
    mine = {"Authorization": "Bearer secret"}
    with stuck_server(tmp_path) as (address, process):
        target = Target(address, process)

        def asked(path):
            status, body = target.request("GET", path)
            found = json.loads(body)
            return status, found["status"], found.get("details", {}).get("threads_lost", 0)

        assert asked("/health") == (200, "healthy", 0)
        assert target.post("/reset", b'{"index":1}', mine)[0] == 504
        assert asked("/health") == (200, "degraded", 1)
        assert asked("/ready")[:2] == (200, "ready")
        assert target.post("/reset", b'{"index":2}', mine)[0] == 200
        assert target.post("/reset", b'{"index":1}', mine)[0] == 504
        assert asked("/ready") == (503, "unhealthy", 2)
        assert b"arlarena_env_threads_lost 2.0" in target.request("GET", "/metrics", headers=mine)[1]
        until(lambda: asked("/health") == (503, "unhealthy", 2))
        (tmp_path / "allowed").touch()
        until(lambda: asked("/health") == (200, "healthy", 0))
        assert asked("/ready")[:2] == (200, "ready")
        assert target.post("/reset", b'{"index":1}', mine)[0] == 200


def until(reached):
    ends = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < ends
        time.sleep(0.02)
