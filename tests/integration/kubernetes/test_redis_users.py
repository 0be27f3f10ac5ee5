"""The ACL users of Kubernetes on a real Valkey server: each role can do its work, and nothing else."""

import os
import subprocess
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from scripts.kubernetes_secrets import ROLES
from scripts.redis_users import users_file

from arlarena.console.launch.broker import find_server
from arlarena.proto.streams.queue import Depth, Streams
from arlarena.proto.streams.trainer_lease import TrainerLease
from arlarena.proto.trajectory import Group, GroupTask, PolicyVersion, Sampling, Task

PASSWORDS = {role: f"password-of-{role}" for role in ROLES}
VERSION = PolicyVersion("test", 0, "00")
TASKS = [GroupTask(f"g{i}", Task("sokoban", "train", i), 2, Sampling()) for i in range(3)]
KEY = "arl:{acl}:tasks"
ONCE = Retry(NoBackoff(), 0)  # redis-py tries a refused login four times, with pauses of seconds


def group(task):
    return Group(task.group_id, task.task, 2, (), Sampling(), VERSION, VERSION, "w")


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory):
    """The socket of a server with the users, and without any other user."""
    folder = tmp_path_factory.mktemp("acl")
    users, path = folder / "users.acl", folder / "s"
    users.write_text(users_file(PASSWORDS))
    options = ["--port", "0", "--unixsocket", str(path), "--aclfile", str(users), "--save", "", "--dir", str(folder)]
    log = (folder / "log").open("w")
    server = subprocess.Popen([str(find_server()), *options], stdout=log, stderr=log, env=dict(os.environ))
    probe = redis.Redis(unix_socket_path=str(path), username="probe", password="probe", protocol=2, retry=ONCE)
    try:
        while True:
            try:
                assert probe.ping()
                break
            except redis.ConnectionError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.01)
        yield path
    finally:
        server.terminate()
        server.wait(10)
        log.close()


def url(path, role):
    return f"unix://{role}:{PASSWORDS[role]}@{path}"


def client(path, role):
    return redis.Redis(unix_socket_path=str(path), username=role, password=PASSWORDS[role], protocol=2, retry=ONCE)


async def test_trainer_and_worker_play_a_group(socket_path):
    with TrainerLease.acquire(url(socket_path, "trainer"), "acl", "first") as lease:
        lease.check()
        async with (
            await Streams.connect(url(socket_path, "trainer"), "acl") as trainer,
            await Streams.connect(url(socket_path, "rollout"), "acl", lease_ttl_s=0.05) as worker,
        ):
            await trainer.reset()
            assert await trainer.issue(TASKS) == 3
            leased = await worker.lease(consumer="w", block_s=1)
            assert await worker.renew(leased)
            assert await worker.complete(leased, group(leased.task))
            given_back = await worker.lease(consumer="w", block_s=1)
            await worker.release(given_back, counted=False)
            failed = await worker.lease(consumer="w", block_s=1)
            await worker.fail(failed, "planted", final=True)
            entries = await trainer.collect(consumer="t", count=8, block_s=1)
            assert [entry.group_id for entry in entries] == [leased.task.group_id, failed.task.group_id]
            assert len(await trainer.collect_pending(consumer="t")) == 2
            await trainer.copy_to_dead_letters(entries[0], "planted")
            await trainer.acknowledge({entry.stream_id: entry.group_id for entry in entries})
            assert len(await trainer.dead_letters()) == 2
            assert len(await trainer.outstanding()) == 1
            assert await trainer.depth() == Depth(1, 0, 0, 0, 2)
            assert await trainer.withdraw(await trainer.outstanding()) == 1


def test_keda_reads_lag_and_length_of_the_tasks(socket_path):
    trainer, keda = client(socket_path, "trainer"), client(socket_path, "keda")
    trainer.execute_command("XGROUP", "CREATE", "arl:{lag}:tasks", "rollout", "0", "MKSTREAM")
    trainer.xadd("arl:{lag}:tasks", {"id": "g"})
    (row,) = keda.xinfo_groups("arl:{lag}:tasks")
    assert (row["lag"], keda.xlen("arl:{lag}:tasks")) == (1, 1)
    assert keda.xpending("arl:{lag}:tasks", "rollout")["pending"] == 0
    for command in (("XADD", KEY, "*", "id", "x"), ("XRANGE", KEY, "-", "+"), ("XLEN", "arl:{lag}:groups")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            keda.execute_command(*command)


async def test_a_task_that_was_given_back_has_no_lag_but_counts_in_the_length(socket_path):
    """A scaler that sees only the lag would start no worker for it: see k8s/components/autoscaling/rollout.yaml."""
    async with (
        await Streams.connect(url(socket_path, "trainer"), "back") as trainer,
        await Streams.connect(url(socket_path, "rollout"), "back") as worker,
    ):
        await trainer.issue(TASKS[:1])
        await worker.release(await worker.lease(consumer="w", block_s=1), counted=False)
    keda = client(socket_path, "keda")
    assert keda.xinfo_groups("arl:{back}:tasks")[0]["lag"] == 0
    assert keda.xlen("arl:{back}:tasks") == 1


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "arl:{acl}:trainer"), ("SET", "arl:{acl}:trainer", "x"), ("DEL", KEY), ("UNLINK", KEY), ("KEYS", "*"),
        ("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("XADD", "other", "*", "a", "b"), ("SHUTDOWN",),
        ("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, "arl:{acl}:done"), ("HGETALL", "arl:{acl}:done"),
    ],
)  # fmt: skip
def test_a_worker_cannot_do_more_than_its_work(socket_path, command):
    with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)no ?perm|permission"):
        client(socket_path, "rollout").execute_command(*command)


@pytest.mark.parametrize("command", [("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("SET", "other", "x")])
def test_the_trainer_cannot_touch_other_data_or_the_server(socket_path, command):
    with pytest.raises(redis.exceptions.NoPermissionError):
        client(socket_path, "trainer").execute_command(*command)


def test_the_probe_can_only_ping(socket_path):
    probe = redis.Redis(unix_socket_path=str(socket_path), username="probe", password="probe", protocol=2, retry=ONCE)
    assert probe.ping()
    with pytest.raises(redis.exceptions.NoPermissionError):
        probe.info()


@pytest.mark.parametrize("user", [{}, {"username": "rollout", "password": "wrong"}, {"username": "default"}])
def test_a_client_without_a_user_or_with_a_wrong_password_is_refused(socket_path, user):
    with pytest.raises(redis.exceptions.ConnectionError, match=r"(?i)authentication required|invalid username"):
        redis.Redis(unix_socket_path=str(socket_path), protocol=2, retry=ONCE, **user).ping()
