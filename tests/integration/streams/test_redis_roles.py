"""The Redis users of compose.yaml with a real server: each role can do its work, and nothing else."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry
from scripts import compose_secrets

from arlarena.console.launch.broker import check_broker, find_server
from arlarena.proto.streams.broker_address import with_password
from arlarena.proto.streams.queue import Streams
from arlarena.proto.streams.trainer_lease import TrainerLease

ONCE = Retry(NoBackoff(), 0)  # redis-py tries a refused login four times, with pauses of seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server with the users of compose.yaml."""

    def __init__(self, folder: Path) -> None:
        self.secrets, self.port = folder / "secrets", free_port()
        compose_secrets.write_all(self.secrets)
        flags = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder), "--save", "")
        self.process = subprocess.Popen(
            [str(find_server()), *flags, "--aclfile", str(self.secrets / "redis_users")], stdout=subprocess.DEVNULL
        )

    def url(self, role: str) -> str:
        password = (self.secrets / f"redis_{role}").read_text().strip()
        return with_password(f"redis://{role}@127.0.0.1:{self.port}/0", password)

    def client(self, role: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(role))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("redis"))
    probe = redis.Redis(port=started.port, username="probe", password="probe", retry=ONCE)
    for _ in range(400):
        try:
            assert started.process.poll() is None, "the server refuses its list of users"
            probe.ping()
            break
        except redis.ConnectionError:
            try:
                started.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    yield started
    started.process.kill()
    started.process.wait()


async def test_trainer_and_worker_do_all_their_work(server: Server, make_tasks, make_group) -> None:
    trainer = await Streams.connect(server.url("trainer"), "a-run", max_deliveries=2, lease_ttl_s=0.2)
    worker = await Streams.connect(server.url("rollout"), "a-run", max_deliveries=2, lease_ttl_s=0.2)
    async with trainer, worker:
        assert await trainer.issue(make_tasks(5)) == 5
        done = await worker.lease(consumer="w", block_s=1)
        assert done is not None
        assert await worker.renew(done)
        assert await worker.complete(done, make_group(done.task))
        failed = await worker.lease(consumer="w", block_s=1)
        assert failed is not None
        await worker.fail(failed, "boom", final=True)
        released = await worker.lease(consumer="w", block_s=1)
        assert released is not None
        await worker.release(released, counted=False)
        expired = await worker.lease(consumer="w", block_s=1)
        assert expired is not None
        while (claimed := await worker.lease(consumer="v", block_s=5)) and claimed.task != expired.task:
            continue  # the lease of `expired` ends after 0.2 s
        assert claimed is not None
        collected = await trainer.collect(consumer="t", count=10, block_s=1)
        assert len(collected) == 2
        assert await trainer.collect_pending(consumer="another") == collected
        await trainer.copy_to_dead_letters(collected[0], "unusable")
        await trainer.acknowledge({entry.stream_id: entry.group_id for entry in collected})
        assert len(await trainer.dead_letters()) == 2
        assert await trainer.withdraw(["g4"]) == 1
        assert await trainer.outstanding() == {"g2", "g3"}
        depth = await trainer.depth()
        assert (depth.groups_waiting, depth.groups_collected, depth.dead) == (0, 0, 2)
        await trainer.reset()


def test_the_trainer_holds_its_lease_and_a_worker_cannot_take_it(server: Server) -> None:
    with TrainerLease.acquire(server.url("trainer"), "a-run", "one", ttl_s=0.3) as lease:
        lease.check()
    with pytest.raises(Exception, match=r"permissions|NOPERM"):
        TrainerLease.acquire(server.url("rollout"), "a-run", "two", ttl_s=0.3)


def test_the_run_may_check_the_broker_and_read_no_key(server: Server) -> None:
    check_broker(server.url("run"))
    with pytest.raises(NoPermissionError):
        server.client("run").get("arl:{a-run}:trainer")


@pytest.mark.parametrize("role", ["trainer", "rollout", "run"])
@pytest.mark.parametrize(
    "command",
    [
        "CONFIG GET *", "CONFIG SET dir /tmp", "ACL LIST", "KEYS *", "SCAN 0", "FLUSHALL", "FLUSHDB", "SHUTDOWN",
        "REPLICAOF 127.0.0.1 1", "MODULE LIST", "FUNCTION LIST", "SCRIPT FLUSH", "MONITOR", "CLIENT LIST", "SAVE",
        "BGREWRITEAOF", "SUBSCRIBE x", "PUBLISH x y", "GET other-application", "SET other-application 1",
        "DEL other-application", "XADD other * a b", "EVAL return(redis.call('GET','other')) 0",
        "EVAL return(redis.call('FLUSHALL')) 0", "MIGRATE 127.0.0.1 1 arl:{a-run}:tasks 0 1", "DUMP arl:{a-run}:tasks",
    ],
)  # fmt: skip
def test_a_role_can_do_nothing_else(server: Server, role: str, command: str) -> None:
    with pytest.raises(redis.ResponseError, match=r"permission|NOPERM|ACL"):
        server.client(role).execute_command(*command.split(" "))


@pytest.mark.parametrize("role", ["rollout", "run"])
@pytest.mark.parametrize("command", ["GET arl:{a-run}:trainer", "SET arl:{a-run}:trainer x", "DEL arl:{a-run}:tasks"])
def test_only_the_trainer_may_use_its_lease_and_remove_streams(server: Server, role: str, command: str) -> None:
    with pytest.raises(NoPermissionError):
        server.client(role).execute_command(*command.split(" "))


def test_a_client_without_a_password_can_do_nothing(server: Server) -> None:
    unknown = redis.Redis(port=server.port, retry=ONCE)
    with pytest.raises(redis.AuthenticationError):
        unknown.ping()
    probe = redis.Redis(port=server.port, username="probe", password="probe", retry=ONCE)
    assert probe.ping()
    with pytest.raises(NoPermissionError):
        probe.info()
