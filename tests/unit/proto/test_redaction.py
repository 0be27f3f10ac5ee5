"""Messages and logs contain no secrets and no control characters."""

import io
import json
import logging
import sys

import pytest

from arlarena.proto.config import (
    ConfigError,
    Table,
    exit_on_config_error,
    load_table,
    read_with_secrets,
    secrets_file,
)
from arlarena.proto.streams.broker_address import broker_url
from arlarena.proto.telemetry import Logger
from arlarena.proto.text import redaction
from arlarena.proto.text.redaction import (
    is_secret,
    masked,
    merged,
    redact,
    redacted_stderr,
    register_secret,
    split_secrets,
)
from arlarena.proto.text.wording import json_escaped, printable

SECRET = "s3cr3t-Value/with+signs"


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch):
    monkeypatch.setattr(redaction, "_hidden", set())


@pytest.mark.parametrize(
    "text",
    [
        f"redis://:{SECRET}@host:6379/0",
        f"redis://user:{SECRET}@host/0 refused",
        f"rediss://user:{SECRET}@[::1]:6379",
        f"http://user:{SECRET}@proxy:3128/",
        "https://s3cr3t-Value@github.com/a/b",
        "http://host/path?a=1&token=s3cr3t-Value&b=2",
        "http://host/path?api_key=s3cr3t-Value",
        "redis://host/0?password=s3cr3t-Value",
        "Authorization: Bearer s3cr3t-Value",
        "Proxy-Authorization: Basic s3cr3t-Value==",
    ],
)
def test_a_credential_is_recognised_by_its_form(text):
    assert "s3cr3t" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/health",
        "redis://127.0.0.1:6379/0",
        "GET http://host:80/a?split=train answered 500 (mail admin@host)",
        "unix:///run/redis.sock",
        "a basic idea: bearer of news",
        "step=3 tokens=512",
    ],
)
def test_a_text_without_credentials_is_unchanged(text):
    assert redact(text) == text


def test_a_hidden_secret_is_masked_in_all_its_forms():
    register_secret(SECRET)
    for written in (SECRET, "s3cr3t-Value%2Fwith%2Bsigns", f"prefix{SECRET}suffix"):
        assert "s3cr3t" not in redact(written)
    register_secret("abc")
    assert redact("abc") == "abc"


@pytest.mark.parametrize(
    "name", ["token", "admin_token", "HF_TOKEN", "apiKey", "api_key", "AWS_SECRET_ACCESS_KEY", "db-password", "tokens"]
)
def test_secrets_are_recognised_by_name(name):
    assert is_secret(name, "x" * 9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 64),
        ("tokenizer", "dir"),
        ("password_file", "/x"),
        ("content_key", "r"),
        ("token", ""),
        ("keys", 3),
    ],
)
def test_other_values_are_public(name, value):
    assert not is_secret(name, value)


def test_splitting_and_merging_a_table_are_inverse():
    table = {
        "name": "x",
        "token": SECRET,
        "options": {"level": 3, "search_api_key": SECRET, "deep": {"password": SECRET}},
        "vllm_arguments": ["--api-key", SECRET],
        "replica_urls": [f"http://u:{SECRET}@h:1"],
    }
    public, secret = split_secrets(table)
    assert "s3cr3t" not in str(public)
    assert public["options"]["level"] == 3
    assert merged(public, secret) == table


def test_options_of_a_command_are_masked():
    assert masked(["prog", "--api-key", SECRET, "--hf-token=abc", "--port", "1"]) == [
        "prog", "--api-key", "***", "--hf-token=***", "--port", "1",
    ]  # fmt: skip


def test_log_values_hold_no_secrets_and_no_control_characters():
    stream = io.StringIO()
    log = Logger("test", "debug", stream)
    register_secret("known-secret")
    value = {
        "url": f"redis://:{SECRET}@h/0",
        "reason": ValueError("known-secret \x9b31m \u202e \x1b]52;c;x\x07 \U000e0041"),
    }
    log.error("failed", token=SECRET, settings={"admin_token": SECRET}, argv=("x", "--api-key", SECRET), **value)
    line = stream.getvalue()
    assert "s3cr3t" not in line
    assert "known-secret" not in line
    assert all(ch == "\n" or ch.isprintable() for ch in line)
    assert json.loads(line)["reason"] == "*** \x9b31m \u202e \x1b]52;c;x\x07 \U000e0041"


@pytest.mark.parametrize(
    "hostile",
    ["\x1b[2J", "\x1b]8;;http://evil\x07", "\x1b]52;c;eA==\x07", "\x9b31m", "a\rb", "\u202etxt", "\u2066x", "\x7f",
     "\x00",
     "\u200b", "\ud800", "\u2028", "\x08\x08", "\U000e0041"],
)  # fmt: skip
def test_control_characters_are_escaped(hostile):
    shown = printable(f"before {hostile} after\n\ttext ä 漢 🎲")
    assert all(ch in "\n\t" or ch.isprintable() for ch in shown)
    assert shown.endswith(" after\n\ttext ä 漢 🎲")
    shown.encode()


def test_escaped_json_has_the_same_value():
    value = ["\x7f\x9b\u202e\U000e0041 ä"]
    escaped = json_escaped(json.dumps(value, ensure_ascii=False))
    assert all(ch.isprintable() for ch in escaped)
    assert json.loads(escaped) == value


def test_library_output_to_stderr_is_redacted(capsys):
    register_secret("known-secret")
    with redacted_stderr():
        logging.lastResort.handle(logging.LogRecord("lib", 40, "f", 1, "sent %s", ("known-secret",), None))
        print("direct known-secret", file=sys.stderr)
    output = capsys.readouterr().err
    assert "known-secret" not in output
    assert output.count("***") == 2


def test_a_stack_trace_is_redacted_and_printable(capsys):
    def fail():
        register_secret("known-secret")
        raise RuntimeError("known-secret \x1b[2J")

    assert exit_on_config_error(fail) == 1
    output = capsys.readouterr().err
    assert "RuntimeError: *** \\x1b[2J" in output
    assert "known-secret" not in output


class Settings(Table):
    """Settings with a secret."""

    token: str | None = None
    url: str = ""
    count: int = 1


def test_an_invalid_secret_is_named_without_its_value(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[redis]\ntoken = 12345678\nurl = ['redis://:s3cr3t-Value@h']\ncount = 'many'\n")
    with pytest.raises(ConfigError) as error:
        load_table(path, "redis", Settings)
    assert "token = ***" in str(error.value)
    assert "count = 'many'" in str(error.value)
    assert "12345678" not in str(error.value)
    assert "s3cr3t" not in str(error.value)


def test_a_secrets_file_is_read_only_for_its_table(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[redis]\ncount = 2\n[inference]\nport = 1\n")
    file = secrets_file(path, "redis")
    file.parent.mkdir()
    file.write_text('[redis]\ntoken = "a-token"\n[inference]\nadmin_token = "x"\n')
    assert load_table(path, "redis", Settings) == Settings(token="a-token", count=2)
    assert read_with_secrets(path) == {"redis": {"count": 2, "token": "a-token"}, "inference": {"port": 1}}


@pytest.mark.parametrize(
    ("url", "environment", "file", "expected"),
    [
        ("redis://h:1/0", {"REDIS_PASSWORD": "p/w"}, "", "redis://:p%2Fw@h:1/0"),
        ("redis://me@h/0", {"REDIS_PASSWORD": "pw"}, "", "redis://me:pw@h/0"),
        ("redis://h/0", {"REDIS_PASSWORD_FILE": "FILE"}, "", "redis://:from-file@h/0"),
        ("redis://h/0", {}, "FILE", "redis://:from-file@h/0"),
        ("redis://h/0", {"REDIS_PASSWORD": "pw"}, "FILE", "redis://:pw@h/0"),
        ("redis://:own@h/0", {"REDIS_PASSWORD": "pw"}, "", "redis://:own@h/0"),
        ("redis://h/0?password=own", {"REDIS_PASSWORD": "pw"}, "", "redis://h/0?password=own"),
        ("unix:///run/r.sock?db=1", {"REDIS_PASSWORD": "pw"}, "", "unix://:pw@/run/r.sock?db=1"),
        ("redis://h/0", {}, "", "redis://h/0"),
    ],
)
def test_the_password_of_redis_is_read_in_order_of_precedence(tmp_path, url, environment, file, expected):
    path = tmp_path / "password"
    path.write_text("from-file\n")
    given = {key: str(path) if value == "FILE" else value for key, value in environment.items()}
    assert broker_url(url, given, str(path) if file else "") == expected


def test_a_missing_or_empty_password_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"REDIS_PASSWORD_FILE: .*nowhere cannot be read"):
        broker_url("redis://h", {"REDIS_PASSWORD_FILE": str(tmp_path / "nowhere")})
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match=r"\[redis\] password_file: .*empty is empty"):
        broker_url("redis://h", {}, str(tmp_path / "empty"))
