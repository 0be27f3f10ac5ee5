"""Pushes with a hostile party: a server that requests the trainer's files, and versions that fail their check."""

import gzip
import inspect
import json
import os
import signal
import tempfile
import time
import tracemalloc
import zlib
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from support.inference.inference_support import (
    label,
    model,
    reference_logprobs,
    running_server,
    save,
    wait_until,
    write_version,
)

from arlarena.client.weights import PushError, PushRefused, Sender, WeightsClient
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import PolicyVersion
from arlarena.trainer.weights.push import Publisher
from arlarena.trainer.weights.transports import Http as HttpTransport
from arlarena.trainer.weights.versions import Version

TOKEN = "a token of some length"
SECRET = b"what the trainer alone may read"
IDS = [(5 * i + 3) % 45 for i in range(20)]


@pytest.fixture
def versions(tmp_path):
    """Two version directories of a trainer. Near them are files with a secret, which no server may receive."""
    folder = tmp_path / "run" / "weights"
    folder.mkdir(parents=True)
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (tmp_path / "run" / "model.safetensors").write_bytes(SECRET)
    (folder / "v000000-uncommitted").mkdir()
    (folder / "v000000-uncommitted" / "model.safetensors").write_bytes(SECRET)
    return [write_version(folder, model(step), step) for step in (1, 2)]


class Hostile:
    """A server that records the requests and answers them with the function `answer`."""

    def __init__(self, answer):
        self.answer, self.bodies, self.headers, self.queries = answer, [], [], []

    async def handle(self, request):
        self.bodies.append(await request.read())
        self.headers.append(dict(request.headers))
        self.queries.append(dict(request.query))
        answer = self.answer(request)
        if inspect.isawaitable(answer):
            answer = await answer
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)


@asynccontextmanager
async def served(answer):
    hostile = Hostile(answer)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", hostile.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield hostile, f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


async def deliver(directory, url, **sender):
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        return await Sender(**sender).deliver(directory, WeightsClient(session, url, TOKEN))


async def push(directory, url):
    """One push by the trainer's publisher, with its own session."""
    version = json.loads((directory / "manifest.json").read_text())["version"]
    publisher = Publisher(
        [url], HttpTransport(full_every=1), token=TOKEN, retry_timeout_s=0.0, log=Logger("test", "error")
    )
    try:
        return await publisher.push(Version(PolicyVersion(**version), directory))
    finally:
        publisher.close()


@pytest.mark.parametrize(
    "name",
    ["../../../secret.txt", "{secret}", "/etc/hostname", "../v000000-uncommitted/model.safetensors", "COMMITTED",
     "manifest.json", "", ".", "config.json/../config.json"],
)  # fmt: skip
async def test_a_file_that_the_manifest_does_not_list_is_not_sent(versions, tmp_path, name):
    name = name.replace("{secret}", str(tmp_path / "secret.txt"))
    async with served(lambda request: {"files": [name], "base": None}) as (hostile, url):
        with pytest.raises(PushRefused, match=r"but the manifest of v000002.* does not list it"):
            await deliver(versions[1], url)
        assert len(hostile.bodies) == 1  # only the announcement


@pytest.mark.parametrize(
    "base", ["..", "../../..", "{parent}", "v000000-uncommitted", "../weights/v000000-uncommitted", "v000009-none"]
)
async def test_an_unknown_base_gets_no_delta(versions, base):
    base = base.replace("{parent}", str(versions[0].parent.parent))
    async with served(lambda request: {"files": ["model.safetensors"], "base": base}) as (hostile, url):
        await deliver(versions[1], url)
        assert hostile.bodies[1] == (versions[1] / "model.safetensors").read_bytes()  # the complete file, no delta
        assert hostile.queries[1] == {}


async def test_deltas_of_a_killed_process_are_removed_by_a_later_process(versions, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, young = tmp_path / "arlarena-push-old", tmp_path / "arlarena-push-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "0.delta").write_bytes(b"left")
    two_days_ago = time.time() - 2 * 86_400
    os.utime(old, (two_days_ago, two_days_ago))
    async with served(lambda request: {"files": ["model.safetensors"], "base": versions[0].name}) as (hostile, url):
        await deliver(versions[1], url)
        assert hostile.queries[1] == {"base": versions[0].name}  # a delta was sent
    assert not old.exists()
    assert young.exists()  # the process that made this folder may still be running


async def test_a_file_requested_a_million_times_is_sent_once(versions):
    answer = {"files": ["config.json"] * 20_000, "base": None}
    async with served(lambda request: answer) as (hostile, url):
        await deliver(versions[1], url)
        assert len(hostile.bodies) == 2


@pytest.mark.parametrize("origin", ["same", "other"])  # aiohttp sends no token to other origins
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_of_a_push_are_not_followed(versions, status, origin):
    async with served(lambda request: {"files": []}) as (other, elsewhere):

        def reply(request):
            target = elsewhere if origin == "other" else f"http://{request.host}"
            return web.Response(status=status, headers={"location": f"{target}/elsewhere"})

        async with served(reply) as (hostile, url):
            with pytest.raises(PushError, match="redirects to"):
                await push(versions[1], url)
        assert (len(hostile.headers), other.headers) == (1, [])


EXPANDED = 128 << 20  # bytes of a response that is sent as about 128 KiB


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_response_to_a_push_is_not_expanded(versions, encoding, compress):
    body = compress(bytes(EXPANDED))
    async with served(lambda request: web.Response(body=body, headers={"content-encoding": encoding})) as (_, url):
        tracemalloc.start()
        try:
            with pytest.raises(PushError, match=f"responded with the encoding '{encoding}'"):
                await push(versions[1], url)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1 << 20  # a session that expands makes more than 1 MiB before the headers are read


async def test_an_endless_response_is_aborted(versions):
    async with served(endless) as (_, url):
        with pytest.raises(aiohttp.ClientError, match="more than"):
            await deliver(versions[1], url)


async def endless(request):
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(bytes(1 << 16))
    except ConnectionError:
        return response


# --- versions that fail their check ---


def probe_of(made, off=0.0):
    expected = reference_logprobs(made, IDS[:1], IDS[1:]).tolist()
    return {"ids": IDS, "log_probs": [value + off for value in expected], "tolerance": 1e-3}


async def push_and_serve(server, directory):
    """Send a version over HTTP and have it served."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        client = WeightsClient(session, server.url, TOKEN)
        await Sender().deliver(directory, client)
        return await client.serve(label(directory), 30)


@pytest.fixture(params=["embedded", "gateway"])
def start(request, tmp_path):
    """A function that starts a policy server with the versions in `tmp_path / "served"`. A later call starts the server
    again.
    """
    (tmp_path / "served").mkdir()
    first = save(model(20), tmp_path / "model")
    config = f'model = "{first}"\nweights_root = "{tmp_path / "served"}"\nadmin_token = "{TOKEN}"\nkeep_versions = 1\n'
    config += "replicas = 2\nhealth_interval_s = 0.2\n" if request.param == "gateway" else ""
    return lambda: running_server(tmp_path / "server", config)


@pytest.mark.slow  # starts two servers twice; tests/unit/inference/test_inference_store.py has quick tests
async def test_after_a_refused_push_and_a_kill_the_newest_good_version_serves(start, tmp_path):
    folder = tmp_path / "trainer"
    folder.mkdir()
    made = model(21)
    good = write_version(folder, made, 3, probe=probe_of(made))
    bad_probe = write_version(folder, model(22), 4, probe=probe_of(made, off=1.0))
    other_shape = write_version(folder, model(23, intermediate_size=96), 5)
    set_back = write_version(folder, model(24), 1, incarnation="again", probe=probe_of(made, off=1.0))
    with start() as server:
        assert (await push_and_serve(server, good)).version == label(good)
        for refused in (bad_probe, other_shape, set_back):
            with pytest.raises(PushError):
                await push_and_serve(server, refused)
            assert server.version() == label(good)
            assert server.generate(IDS, max_tokens=2)["token_ids"]
        assert [path.name for path in (tmp_path / "served").glob("v*")] == [good.name]
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    # If the server is killed after a version is committed and before its probe, the version on disk is unchecked.
    unchecked = write_version(tmp_path / "served", model(22), 4, probe=probe_of(made, off=1.0))
    with start() as server:
        wait_until(lambda: server.version() == label(good), "the good version serves")
        assert server.generate(IDS, max_tokens=2)["token_ids"]
        assert json.loads((unchecked / "manifest.json").read_text())["version"]["step"] == 4
