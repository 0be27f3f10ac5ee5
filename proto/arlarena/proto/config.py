"""Reads the TOML file of a run. Errors name the file, the table, the key and the fix."""

from __future__ import annotations

import os
import signal
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from arlarena.proto.text.files import TextFileError, read_text
from arlarena.proto.text.names import nearest
from arlarena.proto.text.redaction import MASK, is_secret_name, masked, merged, redact, redacted_stderr, register_secret
from arlarena.proto.text.wording import printable

# All valid tables of a configuration file. Each service reads only its own tables.
TABLES = (
    "run",
    "redis",
    "environment",
    "policy",
    "inference",
    "rollout",
    "clone",
    "trainer",
    "evaluation",
    "console",
)
# The variable NAME contains a secret. The variable NAME_FILE contains the path of a file with the secret.
FILE_SUFFIX = "_FILE"
# If a key allows several types, pydantic adds one of these type names to an error's location. Messages omit this name.
_UNION_MEMBERS = {"bool", "float", "int", "str"}


class ConfigError(ValueError):
    """The configuration is invalid. The message says what the user must change."""


class Table(BaseModel):
    """Base class of the settings of one table. Unknown keys, NaN and infinity are errors. The values are read-only.

    `renamed` maps the old name of a key to its new name. The error about an old name says the new name.
    """

    renamed: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def read_file(path: Path) -> dict[str, Any]:
    """Returns all tables of the configuration file `path`.

    Raises:
        ConfigError: the file is missing, cannot be read, is not TOML, or contains an unknown table.
    """
    try:
        data = tomllib.loads(read_text(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file") from error
    except TextFileError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, RecursionError) as error:  # a number with too many digits, or brackets nested too deep
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    for name, value in data.items():
        if name not in TABLES:
            raise ConfigError(f"{path}: unknown table [{name}]; {nearest(name, TABLES)}")
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {name} must be a table, like [{name}]")
    return data


def secrets_file(path: Path, table: str) -> Path:
    """Returns the path of the file with a table's secrets. For `run.toml`, it is `run.secrets/TABLE.toml`."""
    return path.with_suffix(".secrets") / f"{table}.toml"


def read_table(path: Path, table: str) -> dict[str, Any]:
    """Returns one table of the file `path`, merged with the table's `secrets_file`. Reads no other table's secrets.

    Raises:
        ConfigError: see `read_file`.
    """
    values, file = read_file(path).get(table, {}), secrets_file(path, table)
    return merged(values, read_file(file).get(table, {})) if os.path.exists(file) else dict(values)


def read_with_secrets(path: Path) -> dict[str, Any]:
    """Returns all tables of the file `path`, each merged with its `secrets_file`.

    Raises:
        ConfigError: see `read_file`.
    """
    tables = read_file(path)
    with_secrets = [table for table in TABLES if os.path.exists(secrets_file(path, table))]
    return tables | {table: read_table(path, table) for table in with_secrets}


def _hide_secrets(value: Any, name: str = "") -> None:
    """Register all secrets in `value` (settings), so that messages and logs mask them. `name`: the key of `value`."""
    if isinstance(value, BaseModel):
        value = {key: getattr(value, key) for key in type(value).model_fields}
    if isinstance(value, SecretStr):
        register_secret(value.get_secret_value())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _hide_secrets(item, str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            _hide_secrets(item, name)
    elif isinstance(value, str) and is_secret_name(name):
        register_secret(value)


def _value_text(model: type[BaseModel], key: str, value: Any) -> str:
    """Returns the invalid `value` of `key` as text for an error message. Masks secrets."""
    last = key.rpartition(".")[2]
    field = model.model_fields.get(key.partition(".")[0])
    if is_secret_name(last) or (field is not None and _is_secret_field(field)):
        return MASK
    return repr(value) if isinstance(value, int | float) else repr(masked(value, last))


def _key_hint(key: str, model: type[BaseModel]) -> str:
    """Returns the hint for an error about the unknown key `key`: its new name, the most similar key, or all keys."""
    renamed = model.renamed if issubclass(model, Table) else {}
    return f"it was renamed to {renamed[key]!r}" if key in renamed else nearest(key, tuple(model.model_fields))


def _error_text(prefix: str, error: ValidationError, model: type[BaseModel]) -> str:
    """Returns the error message: one line for each invalid key. Each line starts with `prefix`."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"] if part not in _UNION_MEMBERS)
        if item["type"] == "extra_forbidden":
            lines.append(f"{prefix} unknown key {key!r}; {_key_hint(key, model)}")
        elif item["type"] == "missing":
            lines.append(f"{prefix} key {key!r} is required")
        elif not key and item["type"] == "value_error":  # two keys contradict each other; `msg` names both keys
            lines.append(f"{prefix} {item['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(f"{prefix} {key or 'table'} = {_value_text(model, key, item['input'])}: {item['msg']}")
    return "\n".join(lines)


def parse_table(prefix: str, values: Mapping[str, Any], model: type[Model]) -> Model:
    """Validate `values`, the keys and values of one table. Returns them as `model`. Error messages start with `prefix`.

    Raises:
        ConfigError: a key is unknown or missing, a value has the wrong type or range, or two values contradict each
            other.
    """
    _hide_secrets(values)
    try:
        settings = model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_error_text(prefix, error, model)) from error
    _hide_secrets(settings)
    return settings


def parse_part(prefix: str, values: Mapping[str, Any], model: type[Model], *keys: str) -> Model:
    """Validate only the given keys of a table, and ignore all other keys. `keys`: default: all fields of `model`.

    A service uses this function to read a few keys of another service's table. That other service validates the
    complete table.

    Raises:
        ConfigError: see `parse_table`.
    """
    _hide_secrets(values)
    wanted = keys or tuple(model.model_fields)
    return parse_table(prefix, {key: values[key] for key in wanted if key in values}, model)


def load_part(path: Path | None, table: str, model: type[Model], *keys: str) -> Model:
    """Read the table `table` from the file `path`, and validate only `keys` (see `parse_part`).

    Without `path`, the table is empty. Raises the errors of `load_table`.
    """
    values = read_table(path, table) if path is not None else {}
    return parse_part(f"{path or 'command line'}: [{table}]", values, model, *keys)


def variables_of(
    environment: Mapping[str, str], prefix: str, model: type[BaseModel], *, leave_out: Iterable[str] = ()
) -> dict[str, str]:
    """Returns {field of `model`: value of the environment variable `<prefix><FIELD>`}.

    If the variable of a field is missing or empty, the result omits the field. The result also omits the fields in
    `leave_out`. For a secret field, the variable `<prefix><FIELD>_FILE` can contain the path of a file with the value.

    Raises:
        ConfigError: the file of a secret cannot be read or is empty.
    """
    fields = {name: field for name, field in model.model_fields.items() if name not in leave_out}
    values = {
        name: secret_from(environment, f"{prefix}{name.upper()}")
        if _is_secret_field(field)
        else environment.get(f"{prefix}{name.upper()}")
        for name, field in fields.items()
    }
    return {name: value for name, value in values.items() if value}


def secret_variables(prefix: str, model: type[BaseModel]) -> set[str]:
    """Returns the names of the variables for files with the secrets of `model`, such as `PREFIX_TOKEN_FILE`."""
    return {
        f"{prefix}{name.upper()}{FILE_SUFFIX}" for name, field in model.model_fields.items() if _is_secret_field(field)
    }


def _is_secret_field(field: FieldInfo) -> bool:
    return "SecretStr" in str(field.annotation)


def secret_from(environment: Mapping[str, str], variable: str) -> str | None:
    """Returns the value of the environment variable `variable`, which is a secret.

    If `variable` is missing or empty, returns the content of the file with the path in `<variable>_FILE`, without white
    space at both ends. If this variable is also missing or empty, returns None. Messages and logs mask the secret.

    Raises:
        ConfigError: the file cannot be read or is empty.
    """
    value, file = environment.get(variable) or None, environment.get(variable + FILE_SUFFIX)
    if value is None and file:
        value = read_secret(Path(file), variable + FILE_SUFFIX)
    register_secret(value)
    return value


def read_secret(path: Path, setting: str) -> str:
    """Returns the secret in the file `path`. `setting`: the setting with this path, for error messages.

    Raises:
        ConfigError: the file cannot be read or is empty.
    """
    try:
        secret = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{setting}: {path} cannot be read: {reason}") from error
    if not secret:
        raise ConfigError(f"{setting}: {path} is empty; write the secret into it")
    register_secret(secret)
    return secret


def parse_assignment(text: str, form: str) -> tuple[str, Any]:
    """Parse the argument of `--set`. For `lr=1e-4`, returns ("lr", 0.0001). A value that is not TOML stays a string.

    `form`: the correct form of the argument, for the error message.

    Raises:
        ConfigError: the key or the `=` is missing.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"--set {assigned(text)}: write it as {form}")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def assigned(text: str) -> str:
    """Returns `text`, an argument of `--set`, with `…` in place of the value, because the value may be a secret."""
    key, equals, _ = text.partition("=")
    return f"{key}=…" if equals else text


def load_table(path: Path | None, table: str, model: type[Model], overrides: Mapping[str, Any] | None = None) -> Model:
    """Read the table `table` from the file `path`. Returns it as `model`. Without `path`, the table is empty.

    `overrides`: {key: value} from the command line. A value replaces the file's value, except if it is None.

    Raises:
        ConfigError: see `read_file` and `parse_table`.
    """
    values = read_table(path, table) if path is not None else {}
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    return parse_table(f"{path or 'command line'}: [{table}]", {**values, **given}, model)


def exit_on_config_error(main: Callable[[], int]) -> int:
    """Run a program's `main`. Returns the exit status. Masks secrets in all output to stderr.

    Returns the result of `main`, 2 after a `ConfigError`, or 130 after Ctrl-C. After any other exception, prints the
    stack trace and returns 1.
    """
    with redacted_stderr():
        try:
            return main()
        except KeyboardInterrupt:
            print("stopped by SIGINT (Ctrl-C)", file=sys.stderr)
            return 128 + signal.SIGINT
        except ConfigError as error:
            print_error(error)
            return 2
        except Exception:
            print(printable(redact(traceback.format_exc())), end="", file=sys.stderr)
            return 1


def print_error(error: object) -> None:
    """Print `error: …` on stderr, with secrets masked and control characters escaped."""
    print(f"error: {printable(redact(str(error)))}", file=sys.stderr)
