"""The server as a process: exit codes, messages, and a graceful stop."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import forking_support

ROOT = Path(__file__).resolve().parents[4]


def run(*arguments):
    return forking_support.run(arguments, cwd=ROOT)


def assert_explained(done, code, *mentions):
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert all(mention in done.stderr for mention in mentions), done.stderr


def test_an_occupied_port_is_told_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("arlarena.env_server", "sokoban", "--port", str(port))
    assert_explained(done, 3, f"127.0.0.1:{port}", "--port")
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_host_is_told_in_one_line(monkeypatch):
    monkeypatch.setenv("ARLARENA_ENVIRONMENT_REQUIRE_TOKEN", "false")
    assert_explained(
        run("arlarena.env_server", "sokoban", "--host", "no.such.host.invalid", "--port", "0"), 3, "no.such.host"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_a_server_that_others_can_reach_needs_a_token(host):
    refused = run("arlarena.env_server", "sokoban", "--host", host, "--port", "0")
    assert_explained(refused, 2, host, "token", "ARLARENA_ENVIRONMENT_TOKEN", "require_token = false")


@pytest.mark.parametrize("allowed", ["require_token = false", 'token = "secret"', 'tokens_file = "somewhere"'])
def test_with_a_token_or_without_the_need_of_one_others_may_reach_it(allowed, tmp_path):
    (tmp_path / "run.toml").write_text(f'[environment]\nname = "sokoban"\nhost = "0.0.0.0"\n{allowed}\n')
    assert run("arlarena.env_server.settings", str(tmp_path / "run.toml")).stdout == "ok\n"


def test_a_file_of_tokens_that_cannot_be_used_is_told_without_a_token(tmp_path):
    settings, tokens = tmp_path / "run.toml", tmp_path / "tokens"
    settings.write_text(f'[environment]\nname = "sokoban"\ntokens_file = "{tokens}"\n')
    assert_explained(run("arlarena.env_server", "--config", str(settings)), 2, str(tokens), "No such file")
    tokens.write_text("# none yet\n\n")
    assert_explained(run("arlarena.env_server", "--config", str(settings)), 2, "contains no token")
    tokens.write_text("good-token\nmy very secret one\n")
    done = run("arlarena.env_server", "--config", str(settings))
    assert_explained(done, 2, "line 2", "NAME:TOKEN")
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("[environment]\ncapactiy = 5\n", ["[environment]", "capactiy", "did you mean 'capacity'"]),
        ("[environment]\ncapacity = 0\n", ["capacity = 0"]),
        (
            "[environment]\nname = 'sokoban'\n[environment.options]\nboxs = 1\n",
            ["[environment.options]", "boxs", "did you mean 'boxes'"],
        ),
        ("[environment]\nname = 'chess'\n", ["chess", "installed: alfworld, guess, sokoban, tir_math"]),
        ("[environment]\ncapacity = 5\n", ["no environment is named", "installed: alfworld, guess"]),
        ("[enviroment]\n", ["enviroment", "did you mean 'environment'"]),
        ("[environment\n", ["not valid TOML"]),
        ("[environment]\nsession_ttl_s = 'soon'\n", ["session_ttl_s"]),
    ],
)
@pytest.mark.parametrize("module", ["arlarena.env_server", "arlarena.env_server.settings"])
def test_wrong_configurations_exit_with_2(tmp_path, module, text, mentions):
    path = tmp_path / "run.toml"
    path.write_text(text)
    arguments = ["--config", str(path)] if module == "arlarena.env_server" else [str(path)]
    assert_explained(forking_support.run([module, *arguments]), 2, "run.toml", *mentions)


def test_a_missing_file_exits_with_2():
    assert_explained(run("arlarena.env_server", "--config", "nowhere.toml"), 2, "nowhere.toml: no such")


def test_an_unknown_environment_on_the_command_line():
    assert_explained(run("arlarena.env_server", "chess"), 2, "chess", "installed: alfworld, guess, sokoban, tir_math")


def test_settings_validate_without_serving(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[environment]\nname = 'guess'\ncapacity = 5\n[trainer]\nanything = 1\n")
    done = run("arlarena.env_server.settings", str(path))
    assert (done.returncode, done.stdout) == (0, "ok\n")


def test_variables_win_over_the_file_and_flags_over_both(tmp_path, monkeypatch):
    from arlarena.env_server.settings import load_settings

    path = tmp_path / "run.toml"
    path.write_text("[environment]\ncapacity = 5\nport = 1\n")
    monkeypatch.setenv("ARLARENA_ENVIRONMENT_CAPACITY", "6")
    monkeypatch.setenv("ARLARENA_ENVIRONMENT_PORT", "7")
    settings = load_settings(path, {"port": 9, "host": None})
    assert (settings.capacity, settings.port, settings.host) == (6, 9, "127.0.0.1")


def test_the_server_imports_no_torch():
    code = (
        "import sys, arlarena.env_server.__main__, arlarena.environments.sokoban.environment;"
        "print([m for m in ('torch', 'transformers', 'redis', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_server_and_lets_requests_end(tmp_path, start_server, number):
    with start_server(tmp_path) as (address, process):
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"seed": 1}).encode()
        head = f"POST /reset HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        writer.write(head + body[:4])  # a request that is half sent when the signal comes
        await writer.drain()
        health_reader, health_writer = await asyncio.open_connection(host, int(port))
        health_writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await asyncio.wait_for(health_reader.readline(), 10)
        process.send_signal(number)
        log = tmp_path / "stderr.log"
        for _ in range(200):
            if "stopping" in log.read_text():
                break
            await asyncio.sleep(0.02)
        writer.write(body[4:])
        await writer.drain()
        assert b"200" in await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        health_writer.close()
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert "Traceback" not in log.read_text()
