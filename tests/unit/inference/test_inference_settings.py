"""Settings: the file, the environment, flags, and errors that name the fix."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from arlarena.inference.__main__ import open_listeners
from arlarena.inference.settings import InferenceSettings, check_model, load, read_variables, secret
from arlarena.proto.config import ConfigError


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_flags_override_the_environment_which_overrides_the_file(tmp_path, monkeypatch):
    path = write(tmp_path, '[inference]\nport = 1\nhost = "::1"\nserved_model_name = "file"\n')
    monkeypatch.setenv("ARLARENA_INFERENCE_PORT", "2")
    monkeypatch.setenv("ARLARENA_INFERENCE_HOST", "127.0.0.2")
    settings = load(path, {"port": 3, "host": None})
    assert (settings.port, settings.host, settings.served_model_name) == (3, "127.0.0.2", "file")


def test_an_unknown_key_names_the_file_and_the_nearest_key(tmp_path):
    path = write(tmp_path, "[inference]\nmax_slot = 3\n")
    with pytest.raises(ConfigError, match="max_slots") as error:
        load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("line", ["port = 70000", "threads = 0", "request_timeout_s = 0", 'log_level = "loud"'])
def test_values_out_of_range_are_refused(tmp_path, line):
    with pytest.raises(ConfigError, match=line.split()[0]):
        load(write(tmp_path, f"[inference]\n{line}\n"))


def test_a_model_directory_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such directory"):
        load(write(tmp_path, f'[inference]\nmodel = "{tmp_path}/absent"\n'))


def test_replica_urls_may_end_in_v1_and_must_be_addresses(tmp_path):
    text = '[inference]\nreplica_urls = ["http://a:1/v1/", "http://b:2"]\n'
    assert load(write(tmp_path, text)).replica_urls == ("http://a:1", "http://b:2")
    with pytest.raises(ConfigError, match=r"replica_urls: 'b:2' is not a service address"):
        load(write(tmp_path, '[inference]\nreplica_urls = ["b:2"]\n'))


def test_an_environment_variable_that_names_no_setting_is_refused():
    with pytest.raises(ConfigError, match="ARLARENA_INFERENCE_PROT"):
        read_variables({"ARLARENA_INFERENCE_PROT": "1"})
    assert read_variables({"ARLARENA_OTHER": "1", "PATH": "x"}) == {}


@pytest.mark.parametrize(("text", "code"), [("[inference]\nport = 1\n", 0), ("[inference]\nprot = 1\n", 2)])
def test_checking_a_file_does_not_import_torch(tmp_path, text, code):
    command = [sys.executable, "-X", "importtime", "-m", "arlarena.inference.settings", str(write(tmp_path, text))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert (result.stdout.strip() == "ok") == (code == 0)
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert "pydantic" in imported
    assert not imported & {"torch", "transformers", "uvicorn"}


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ('host = "0.0.0.0"', "ARLARENA_INFERENCE_ADMIN_TOKEN"),
        ('host = "example.org"', "admin_token"),
        ('admin_token = "short"', "admin_token"),
        ('engine = "vllm"\nreplicas = 2', "--data-parallel-size"),
    ],
)
def test_open_addresses_without_secrets_and_impossible_settings_are_refused(tmp_path, lines, word):
    with pytest.raises(ConfigError, match=word):
        load(write(tmp_path, f"[inference]\n{lines}\n"))


def test_a_public_address_needs_an_admin_token_and_an_api_key(tmp_path, monkeypatch):
    path = write(tmp_path, '[inference]\nhost = "0.0.0.0"\n')
    monkeypatch.setenv("ARLARENA_INFERENCE_ADMIN_TOKEN", "0123456789abcdef")
    with pytest.raises(ConfigError, match="ARLARENA_INFERENCE_API_KEY"):
        load(path)
    monkeypatch.setenv("ARLARENA_INFERENCE_API_KEY", "fedcba9876543210")
    settings = load(path)
    assert (secret(settings.admin_token), secret(settings.api_key)) == ("0123456789abcdef", "fedcba9876543210")
    assert "0123456789abcdef" not in repr(settings)
    assert "fedcba9876543210" not in repr(settings)


@pytest.mark.parametrize("name", ["admin_token", "api_key"])
def test_an_error_about_a_secret_does_not_show_it(tmp_path, name):
    with pytest.raises(ConfigError, match=name) as caught:
        load(write(tmp_path, f'[inference]\n{name} = "hunter2"\n'))
    assert "hunter2" not in str(caught.value)


def test_a_missing_model_is_refused_before_the_port_is_bound(tmp_path):
    with pytest.raises(ConfigError, match="nothing to serve: set either model"):
        check_model(load(None))
    with pytest.raises(ConfigError, match=r"is not a Hugging Face model: it lacks config.json, weights"):
        check_model(load(None, {"model": tmp_path}))
    check_model(load(None, {"weights_root": tmp_path}))  # versions may exist or be uploaded later
    check_model(InferenceSettings(replica_urls=("http://a:1",)))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("x" * 200, "AF_UNIX path too long"), ("missing/engine.sock", "No such file or directory")],
)
def test_a_unix_socket_that_cannot_be_bound_is_named(tmp_path, capsys, monkeypatch, name, reason):
    monkeypatch.chdir(tmp_path)
    assert open_listeners(InferenceSettings(), Path(name)) == []
    assert capsys.readouterr().err == f"error: {name} cannot be bound: {reason}\n"


def test_a_unix_socket_in_use_is_named_with_its_flag(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a relative path is always short enough for a socket
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind("engine.sock")
        assert open_listeners(InferenceSettings(), Path("engine.sock")) == []
    assert capsys.readouterr().err == "error: engine.sock is in use: choose another --uds\n"


def test_the_setting_of_a_port_in_use_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert open_listeners(InferenceSettings(port=0, admin_port=port), None) == []
    assert capsys.readouterr().err == f"error: 127.0.0.1:{port} is in use: choose another [inference] admin_port\n"
