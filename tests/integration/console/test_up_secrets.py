"""`arlarena up` with a secret in every place that takes one: none is in a command line, a log, a page or a file that is
not for secrets, no service gets another one's, and what others send does not reach the terminal as it is.
"""

import contextlib
import json
import os
import stat
import sys
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.console.up_support import CONFIG, Up

from arlarena.console.launch.broker import Broker

pytestmark = pytest.mark.slow  # runs of several processes; test_redaction.py and test_child_environment.py are short

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SECRETS = {
    name: f"sEcReT-{name}-0123456789"
    for name in ("admin", "api", "environment", "option", "nested", "proxy", "hub", "aws", "url", "flag", "arguments")
}
TABLES = f"""
[inference]
admin_token = "{SECRETS["admin"]}"
api_key = "{SECRETS["api"]}"
vllm_arguments = ["--hf-token", "{SECRETS["arguments"]}"]
replica_urls = ["http://user:{SECRETS["url"]}@127.0.0.1:1"]
[environment.options]
search_api_key = "{SECRETS["option"]}"
[environment.options.deep]
password = "{SECRETS["nested"]}"
"""
VARIABLES = {
    "HF_TOKEN": SECRETS["hub"],
    "AWS_SECRET_ACCESS_KEY": SECRETS["aws"],
    "https_proxy": f"http://user:{SECRETS['proxy']}@127.0.0.1:1",
    "NO_PROXY": "*",
}


def write_config(up: Up) -> None:
    up.config.write_text(
        CONFIG.replace('name = "sokoban"', f'name = "sokoban"\ntoken = "{SECRETS["environment"]}"') + TABLES
    )


def leaks(text: bytes, secrets: dict[str, str]) -> list[str]:
    return [name for name, secret in secrets.items() if secret.encode() in text]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def for_secrets(path: Path) -> bool:
    return path.parent.name == "config.secrets" or (path.parent.name == "broker" and path.name == "password")


def proc(process: psutil.Process, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/{name}").read_bytes()
    return b""


@linux
def test_secrets_are_where_they_are_needed_and_nowhere_else(up: Up) -> None:
    write_config(up)
    (up.flags / "train-on").write_text("yes")
    process = up.start("up", str(up.config), "--set", f"environment.options.flag_token={SECRETS['flag']}", **VARIABLES)
    up.until(lambda: up.steps() >= 1 and bool(up.started_as("rollout", "worker")))
    password = (up.run / "broker" / "password").read_text().strip()
    secrets = SECRETS | {"broker": password}
    lines = {member.pid: proc(member, "cmdline") for member in up.family}
    assert len(lines) >= 6
    assert [leaks(line, secrets) for line in lines.values() if leaks(line, secrets)] == []
    pids = {service: up.started(service)[-1]["pid"] for service in ("env_server", "inference", "trainer")}
    pids["rollout"] = up.started_as("rollout", "worker")[-1]["pid"]
    has = {name: leaks(proc(psutil.Process(pid), "environ"), secrets) for name, pid in pids.items()}
    assert has == {
        "env_server": ["environment"],
        "inference": ["api", "proxy", "hub"],  # the administrator's token is a new one
        "trainer": ["environment", "proxy", "hub", "broker"],
        "rollout": ["api", "environment", "proxy", "hub", "broker"],
    }
    (up.flags / "train-on").unlink()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert leaks(said.encode(), secrets) == []
    found = {str(path): leaks(path.read_bytes(), secrets) for path in files(up.run) if not for_secrets(path)}
    assert {path: names for path, names in found.items() if names} == {}
    assert "--set 'environment.options.flag_token=***'" in json.loads((up.run / "summary.json").read_text())["command"]


@pytest.mark.slow  # three launchers, one after the other
@linux
def test_secrets_that_the_run_keeps_are_by_table_and_resume_has_them(up: Up) -> None:
    write_config(up)
    (up.flags / "train-on").write_text("yes")
    process = up.start("up", str(up.config))
    up.until(lambda: up.steps() >= 1)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    kept = {path.stem: leaks(path.read_bytes(), SECRETS) for path in files(up.run / "config.secrets")}
    assert kept == {
        "environment": ["environment", "option", "nested"],
        "inference": ["admin", "api", "url", "arguments"],
    }
    assert "# environment.token: kept in config.secrets/environment.toml" in (up.run / "config.toml").read_text()
    resumed = up.start("up", str(up.run / "config.toml"), "--resume")
    up.until(lambda: len(up.started("env_server")) == 2 and len(up.started_as("trainer", "train")) == 2)
    environ = proc(psutil.Process(up.started_as("trainer", "train")[-1]["pid"]), "environ")
    assert leaks(environ, SECRETS) == ["environment"]
    (up.flags / "train-on").unlink()
    said, _ = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, said
    assert kept == {path.stem: leaks(path.read_bytes(), SECRETS) for path in files(up.run / "config.secrets")}
    up.config.write_text(up.config.read_text().replace(SECRETS["environment"], "another-token"))
    code, said = up.up("--resume")
    assert code == 0, said  # a token may be replaced: the experiment is the same


def test_everything_in_a_run_is_for_its_owner_alone(up: Up) -> None:
    mask = os.umask(0)
    try:
        code, said = up.up()
    finally:
        os.umask(mask)
    assert code == 0, said
    paths = [up.run, *up.run.rglob("*")]
    assert len(paths) > 20
    modes = {str(path): oct(stat.S_IMODE(path.lstat().st_mode)) for path in paths}
    assert {path: mode for path, mode in modes.items() if int(mode, 8) & 0o077} == {}


@pytest.mark.slow  # a whole run for one detail
def test_a_folder_that_the_user_made_keeps_its_mode(up: Up) -> None:
    up.run.mkdir(parents=True)
    up.run.chmod(0o755)
    code, said = up.up()
    assert code == 0, said
    assert stat.S_IMODE(up.run.stat().st_mode) == 0o755
    assert stat.S_IMODE((up.run / "config.toml").stat().st_mode) == 0o600


@pytest.mark.slow  # two launchers each, and unit tests of broker_url cover the choice
@pytest.mark.parametrize("way", ["REDIS_PASSWORD", "REDIS_PASSWORD_FILE", "password_file"])
def test_a_redis_by_url_takes_its_password_from_elsewhere(up: Up, broker: Broker, way: str) -> None:
    bare = f"redis://127.0.0.1:{broker.port}/0"
    code, said = up.up(REDIS_URL=bare)
    assert code == 2
    assert f"Redis at {bare} refused the user or password: set the password with REDIS_PASSWORD" in said
    password = broker.password_path.read_text().strip()
    if way == "password_file":
        code, said = up.up("--set", f"redis.password_file={broker.password_path}", "--set", f"redis.url={bare}")
    else:
        code, said = up.up(REDIS_URL=bare, **{way: password if way == "REDIS_PASSWORD" else str(broker.password_path)})
    assert code == 0, said
    assert password not in said
    assert [path for path in files(up.run) if password.encode() in path.read_bytes()] == []


def test_the_launchers_broker_refuses_strangers(up: Up) -> None:
    (up.flags / "train-on").write_text("yes")
    process = up.start("up", str(up.config))
    up.until(lambda: up.steps() >= 1)
    (server,) = up.brokers()
    port = next(connection.laddr.port for connection in server.net_connections() if connection.status == "LISTEN")
    with (
        redis.Redis(port=port, protocol=2, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.keys()
    with redis.Redis(port=port, password=(up.run / "broker" / "password").read_text().strip()) as client:
        assert client.ping()
    (up.flags / "train-on").unlink()
    process.communicate(timeout=60)
    assert process.returncode == 0


HOSTILE = "\x1b[2J\x1b]52;c;ZXZpbA==\x07 \u202eevil\u2066 \x9b31m \rerased </script><b>x</b> [bold]y[/bold]"


def test_what_services_say_does_not_steer_the_terminal(up: Up) -> None:
    (up.flags / "clone-fails").write_text(HOSTILE)
    code, said = up.up()
    assert code == 1
    assert all(ch in "\n\t" or ch.isprintable() for ch in said), [ch for ch in said if not ch.isprintable()]
    assert "\\x1b[2J\\x1b]52" in said
    assert "\\u202eevil" in said
    assert "[bold]y[/bold]" in said


def test_names_of_others_in_the_table_and_the_page_are_text(up: Up) -> None:
    (up.flags / "data").write_text(HOSTILE)
    code, said = up.up()
    assert code == 0, said
    assert all(ch in "\n\t" or ch.isprintable() for ch in said), [ch for ch in said if not ch.isprintable()]
    assert said.count("[bold]y[/bold]") == 2
    page = (up.run / "report.html").read_text()
    assert "<b>x</b>" not in page
    assert "&lt;/script&gt;&lt;b&gt;x&lt;/b&gt;" in page
