"""Opens the model for the command-line argument MODEL.

openai/NAME, anthropic/NAME, google/NAME    the vendor's SDK, at the vendor's address or at --base-url
NAME with --base-url                        an OpenAI-compatible server, without an SDK
compatible/NAME with --base-url             an OpenAI-compatible server, for a NAME such as google/gemma-3-27b-it
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from arlarena.proto.config import ConfigError
from arlarena.proto.http.addresses import service_url
from arlarena.proto.text.names import nearest
from arlarena.rollout.evaluation.models.connection import ApiConnection, ApiLimits
from arlarena.rollout.evaluation.models.protocol import ChatModel
from arlarena.rollout.settings import api_key

# Environment variable with the key for --base-url. A vendor's key is never sent to another address.
BASE_URL_KEY = "ARLARENA_EVAL_API_KEY"
# Sent to a server at --base-url if no key is set. The SDKs require a key, and most local servers ignore it.
NO_KEY = "none"
_COMPATIBLE = "compatible"


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor's API and SDK.

    Attributes:
        title: name of the vendor in messages.
        module: name of the module in this package that contains the vendor's adapter.
        build: name of the adapter class in `module`.
        extra: name of the pip extra of arlarena-rollout that installs the SDK.
        key_variable: name of the environment variable with the key.
        address: a function that converts a base URL to the form that the SDK expects.
        starts: prefixes of the vendor's model names, for hints in error messages.
    """

    title: str
    module: str
    build: str
    extra: str
    key_variable: str
    address: Callable[[str], str]
    starts: tuple[str, ...]


def openai_address(url: str) -> str:
    """Returns the address for OpenAI's API. Without a path, /v1 is added: http://host:8100 becomes http://host:8100/v1.

    Raises:
        ValueError: `url` is not an http(s) URL.
    """
    service_url(url)
    base = url.strip().rstrip("/")
    return base if urlsplit(base).path else f"{base}/v1"


def google_address(url: str) -> str:
    """Returns the address without the API version /v1beta, because Google's SDK adds the version.

    Raises:
        ValueError: `url` is not an http(s) URL.
    """
    return service_url(url.strip().rstrip("/").removesuffix("/v1beta"))


VENDORS = {
    "openai": Vendor(
        "OpenAI", "openai_chat", "OpenAiChatModel", "openai", "OPENAI_API_KEY", openai_address, ("gpt", "o1", "o3")
    ),
    "anthropic": Vendor(
        "Anthropic", "anthropic", "AnthropicModel", "anthropic", "ANTHROPIC_API_KEY", service_url, ("claude",)
    ),
    "google": Vendor("Google", "google", "GoogleModel", "google", "GEMINI_API_KEY", google_address, ("gemini",)),
}  # fmt: skip


def open_model(
    text: str, *, base_url: str | None = None, sees_images: bool = True, limits: ApiLimits | None = None
) -> ChatModel:
    """Returns an adapter for a model. Sends no request.

    Args:
        text: MODEL of the command line.
        base_url: address of the API; None: the vendor's address.
        sees_images: whether images may be sent to the model.
        limits: limits of each request; None: the defaults.

    Raises:
        ConfigError: the name or the address is invalid, the SDK is not installed, or the key is missing.
    """
    prefix, name = vendor_and_name(text, base_url)
    vendor = VENDORS[prefix]
    variable = BASE_URL_KEY if base_url else vendor.key_variable
    module = _module(text, vendor)
    connection = ApiConnection(
        name=text,
        model=name,
        base_url=_address(base_url, vendor) if base_url else module.BASE_URL,
        key=_key(text, vendor, variable, required=not base_url),
        key_variable=variable,
        sees_images=sees_images,
        limits=limits or ApiLimits(),
    )
    build = getattr(module, vendor.build)
    if prefix == "openai":  # a MODEL without this prefix is on a compatible server, so no SDK is used
        own = text.startswith("openai/")
        return cast(ChatModel, build(connection, own_api=not base_url, sdk=own))
    return cast(ChatModel, build(connection))


def vendor_and_name(text: str, base_url: str | None) -> tuple[str, str]:
    """Returns the vendor's name in `VENDORS`, and the model's name for the vendor's API.

    Raises:
        ConfigError: `text` has no vendor prefix and there is no base URL. Or the name after the prefix is empty, or
            begins or ends with a blank.
    """
    prefix, slash, rest = text.partition("/")
    if prefix in VENDORS and slash:
        name = rest
    elif base_url:
        prefix, name = "openai", rest if prefix == _COMPATIBLE and slash else text
    else:
        guess = next((key for key, one in VENDORS.items() if text.startswith(one.starts)), "")
        hint = f"did you mean '{guess}/{text}'?" if guess else nearest(prefix, VENDORS) if slash else ""
        raise ConfigError(
            f"unknown model {text[:100]!r}: write openai/NAME, anthropic/NAME or google/NAME, or give --base-url URL "
            f"for an OpenAI-compatible server{'; ' + hint if hint else ''}"
        )
    if not name or name != name.strip():
        raise ConfigError(f"MODEL {text[:100]!r}: the model's name is empty, or begins or ends with a blank")
    return prefix, name


def _module(text: str, vendor: Vendor) -> Any:
    """Returns the module with the vendor's adapter.

    Raises:
        ConfigError: the SDK is not installed.
    """
    try:
        return importlib.import_module(f"arlarena.rollout.evaluation.models.{vendor.module}")
    except ImportError as error:
        raise ConfigError(
            f"{text[:100]} needs {vendor.title}'s SDK ({error}): pip install 'arlarena-rollout[{vendor.extra}]'"
        ) from error


def _address(url: str, vendor: Vendor) -> str:
    """Returns the address for the SDK.

    Raises:
        ConfigError: `url` is not an http(s) URL, or contains credentials, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ConfigError(
                "--base-url must not contain a user, a password, a query or a fragment; "
                f"put the key into {BASE_URL_KEY}"
            )
        return vendor.address(url)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"--base-url: {error}") from error


def _key(text: str, vendor: Vendor, variable: str, *, required: bool) -> str:
    """Returns the API key from the environment variable `variable`.

    If the variable is not set and no key is required, returns `NO_KEY`.

    Raises:
        ConfigError: a required key is missing, or the key has characters that are not allowed in an HTTP header.
    """
    key = (api_key(variable) or "").strip()
    if not key and required:
        raise ConfigError(f"{text[:100]} needs a key for {vendor.title}'s API: set the environment variable {variable}")
    if not all(" " < character <= "~" for character in key):
        raise ConfigError(
            f"the environment variable {variable} contains blanks or other characters that a key cannot have"
        )
    return key or NO_KEY
