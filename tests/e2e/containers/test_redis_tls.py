"""Redis with the configuration and secrets of the Kubernetes manifests: only TLS, and clients check the certificate."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import images
from scripts.kubernetes_secrets import values

NAME = "arlarena-e2e-redis-tls"  # of the network and of the container
TIMEOUT_S = 60
# Each role connects with the variables of its pod: the trainer issues a task, a worker leases it.
CONNECT = """
import asyncio, os
from arlarena.proto.streams.broker_address import broker_url
from arlarena.proto.streams.queue import Streams
from arlarena.proto.trajectory import GroupTask, Sampling, Task

async def main():
    url = broker_url(os.environ["ARLARENA_REDIS_URL"], os.environ)
    async with await Streams.connect(url, "tls", retry_delay_s=0.05) as streams:
        {action}

asyncio.run(main())
"""
ISSUE = 'print(await streams.issue([GroupTask("g0", Task("sokoban", "train", 0), 2, Sampling())]))'
LEASE = 'print((await streams.lease(consumer="w", block_s=5)).task.group_id)'
pytestmark = [pytest.mark.slow, pytest.mark.timeout(4000)]  # the images are built


def write(folder: Path, files: dict[str, str]) -> Path:
    """A folder with files that the user of a container can read."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def client(url: str, secrets: Path, role: str, action: str) -> subprocess.CompletedProcess[str]:
    """Execute `action` in a container of the role, with the password and the certificate in `secrets`."""
    image = images.IMAGES[role].tag(role)
    command = ["docker", "run", "--rm", "--read-only", "--network", NAME, "--volume", f"{secrets}:/run/secrets:ro"]
    command += ["--env", f"ARLARENA_REDIS_URL={url}", "--env", "REDIS_PASSWORD_FILE=/run/secrets/password"]
    command += ["--entrypoint", "python", image, "-c", CONNECT.format(action=action)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def answers() -> bool:
    """Whether the server answers the command of the readiness probe."""
    ping = "redis-cli --tls --cacert /run/secrets/redis/ca.crt --sni redis --user probe --pass probe ping"
    done = subprocess.run(["docker", "exec", NAME, *ping.split()], capture_output=True, text=True, check=False)
    return "PONG" in done.stdout


@pytest.fixture(scope="module")
def secrets(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A running server. Yields the folders with the secrets of each role, and of a client with another authority."""
    made, folder = values(days=1), tmp_path_factory.mktemp("tls")
    server = write(folder / "server", made["redis-tls"] | made["redis-users"])
    roles = {role: write(folder / role, made[f"redis-{role}"] | made["redis-ca"]) for role in ("trainer", "rollout")}
    other = write(folder / "other", made["redis-trainer"] | values(days=1)["redis-ca"])
    mounts = (f"{images.ROOT / 'k8s' / 'redis'}:/etc/redis:ro", f"{server}:/run/secrets/redis:ro")
    options = [word for mount in mounts for word in ("--volume", mount)]
    hardened = ("--user", "10001:10001", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/data:uid=10001,mode=700")
    images.docker("network", "create", "--internal", NAME)
    try:
        run = ("run", "--detach", "--rm", "--name", NAME, "--network", NAME, "--network-alias", "redis")
        program = (images.IMAGES["redis"].tag("redis"), "redis-server", "/etc/redis/redis.conf")
        images.docker(*run, *hardened, *options, *program)
        deadline = time.monotonic() + TIMEOUT_S
        while not answers():
            assert time.monotonic() < deadline, images.docker("logs", NAME)
            time.sleep(0.1)
        yield {**roles, "other": other}
    finally:
        subprocess.run(["docker", "rm", "--force", NAME], check=False, capture_output=True)
        images.docker("network", "rm", NAME)


def test_trainer_and_worker_exchange_a_task_over_tls(secrets: dict[str, Path]) -> None:
    url = "rediss://{}@redis:6379/0?ssl_ca_certs=/run/secrets/ca.crt"
    issued = client(url.format("trainer"), secrets["trainer"], "trainer", ISSUE)
    assert issued.stdout == "1\n", issued.stderr
    leased = client(url.format("rollout"), secrets["rollout"], "rollout", LEASE)
    assert leased.stdout == "g0\n", leased.stderr


def test_a_server_with_the_certificate_of_another_authority_is_refused(secrets: dict[str, Path]) -> None:
    url = "rediss://trainer@redis:6379/0?ssl_ca_certs=/run/secrets/ca.crt"
    done = client(url, secrets["other"], "trainer", ISSUE)
    assert done.returncode != 0
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


def test_connections_without_encryption_are_refused(secrets: dict[str, Path]) -> None:
    assert client("redis://trainer@redis:6379/0", secrets["trainer"], "trainer", ISSUE).returncode != 0
