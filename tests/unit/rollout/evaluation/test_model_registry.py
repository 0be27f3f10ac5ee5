"""`open_model`: the adapter that each MODEL argument selects, and the errors of invalid arguments."""

import sys

import pytest

from arlarena.proto.config import ConfigError
from arlarena.rollout.evaluation.models import registry
from arlarena.rollout.evaluation.models.registry import (
    BASE_URL_KEY,
    VENDORS,
    google_address,
    open_model,
    openai_address,
)

KEYS = (*(vendor.key_variable for vendor in VENDORS.values()), BASE_URL_KEY)
SDK = {"openai": "openai", "anthropic": "anthropic", "google": "google.genai"}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in KEYS:
        monkeypatch.delenv(variable, raising=False)


def connection(text: str, base_url: str | None = None) -> object:
    return open_model(text, base_url=base_url)._connection  # type: ignore[attr-defined]


@pytest.mark.parametrize(("text", "variable"), [(f"{name}/m", one.key_variable) for name, one in VENDORS.items()])
def test_a_missing_key_is_named(text: str, variable: str) -> None:
    pytest.importorskip(SDK[text.partition("/")[0]])
    with pytest.raises(ConfigError, match=f"set the environment variable {variable}$"):
        open_model(text)


@pytest.mark.parametrize("name", list(VENDORS))
def test_a_missing_sdk_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VENDORS[name].key_variable, "sk-0123456789")
    monkeypatch.setitem(sys.modules, SDK[name], None)  # Python's way to make an import fail
    for module in (VENDORS[name].module, "chat_senders"):  # so that they are imported again
        monkeypatch.delitem(sys.modules, f"{registry.__package__}.{module}", raising=False)
    with pytest.raises(ConfigError, match=rf"pip install 'arlarena-rollout\[{VENDORS[name].extra}\]'"):
        open_model(f"{name}/m")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("gpt-5", "did you mean 'openai/gpt-5'"),
        ("claude-opus-5", "did you mean 'anthropic/claude-opus-5'"),
        ("gemini-3", "did you mean 'google/gemini-3'"),
        ("antropic/m", "did you mean 'anthropic'"),
        ("qwen", "--base-url"),
        ("openai/", "name is empty"),
        ("compatible/m", "--base-url"),
    ],
)
def test_an_unknown_model_is_an_error_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        open_model(text)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host",
        "http://",
        "http://user:secret-pass@host/v1",
        "http://host/v1?api_key=secret-pass",
    ],
)
def test_an_invalid_address_is_an_error_that_quotes_no_secret(url: str) -> None:
    pytest.importorskip("openai")
    with pytest.raises(ConfigError, match="--base-url") as caught:
        open_model("m", base_url=url)
    assert "secret-pass" not in str(caught.value)


def test_a_key_of_a_vendor_is_not_sent_to_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    assert connection("openai/m").key == "sk-of-openai"  # type: ignore[attr-defined]
    assert connection("openai/m", "http://127.0.0.1:9").key == registry.NO_KEY  # type: ignore[attr-defined]
    monkeypatch.setenv(BASE_URL_KEY, "sk-of-server")
    assert connection("openai/m", "http://127.0.0.1:9").key == "sk-of-server"  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["sk-ab cd", "sk-ä", "sk-a\nb"])
def test_a_key_that_no_header_can_have_is_an_error_without_the_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        open_model("openai/m")
    assert key not in str(caught.value)


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
def test_variables_of_the_sdk_do_not_redirect_an_evaluation(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    monkeypatch.setenv(variable, "http://elsewhere.example/v1")
    model = open_model("openai/m")
    assert str(model._sender._client.base_url) == "https://api.openai.com/v1/"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("qwen3", "qwen3"),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("openai/gpt-5", "gpt-5"),
        ("compatible/google/gemma-3-27b-it", "google/gemma-3-27b-it"),
    ],
)
def test_the_name_for_a_server_at_an_address(text: str, name: str) -> None:
    pytest.importorskip("openai")
    made = connection(text, "http://127.0.0.1:9")
    assert (made.model, made.name) == (name, text)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://h:8100", "http://h:8100/v1"),
        ("http://h:8100/", "http://h:8100/v1"),
        ("http://h:8100/v1/", "http://h:8100/v1"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
    ],
)
def test_an_address_without_a_path_gets_v1(given: str, used: str) -> None:
    assert openai_address(given) == used


@pytest.mark.parametrize("given", ["http://h", "http://h/", "http://h/v1beta", "http://h/v1"])
def test_google_addresses_have_no_version(given: str) -> None:
    assert google_address(given) == "http://h"
