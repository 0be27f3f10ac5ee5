"""A secret of a service may be in a variable, or in the file that the variable with the ending _FILE names."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from arlarena.console.launch.child_environment import child_environment
from arlarena.inference.settings import read_variables
from arlarena.proto.config import ConfigError, Table, secret_from, secret_variables, variables_of
from arlarena.proto.text.redaction import redact
from arlarena.rollout.evaluation.start.local_service import service_variables


class Keys(Table):
    token: SecretStr | None = Field(None, min_length=4)
    tokens: str = ""


def test_a_file_replaces_a_missing_variable_and_a_variable_replaces_the_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-file\n")
    assert secret_from({"A_FILE": str(file)}, "A") == "from-the-file"
    assert secret_from({"A_FILE": str(file), "A": ""}, "A") == "from-the-file"
    assert secret_from({"A_FILE": str(file), "A": "from-the-variable"}, "A") == "from-the-variable"
    assert secret_from({}, "A") is None
    assert redact("from-the-file, from-the-variable") == "***, ***"


def test_only_secret_settings_are_read_from_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-file")
    given = {"X_TOKEN_FILE": str(file), "X_TOKENS_FILE": str(file)}
    assert variables_of(given, "X_", Keys) == {"token": "from-the-file"}
    assert secret_variables("X_", Keys) == {"X_TOKEN_FILE"}
    names = {"ARLARENA_INFERENCE_ADMIN_TOKEN_FILE": str(file), "ARLARENA_INFERENCE_API_KEY_FILE": str(file)}
    assert read_variables(names) == {"admin_token": "from-the-file", "api_key": "from-the-file"}
    with pytest.raises(ConfigError, match="ARLARENA_INFERENCE_PORT_FILE does not name a setting"):
        read_variables({"ARLARENA_INFERENCE_PORT_FILE": str(file)})


@pytest.mark.parametrize(("content", "reason"), [(None, "cannot be read: No such file"), (" \n", "is empty")])
def test_the_error_names_the_variable_and_the_file(content: str | None, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=f"X_TOKEN_FILE: .*token {reason}"):
        variables_of({"X_TOKEN_FILE": str(file)}, "X_", Keys)


def test_a_service_gets_the_files_of_its_own_secrets_only() -> None:
    names = ("ARLARENA_ENVIRONMENT_TOKEN_FILE", "ARLARENA_INFERENCE_API_KEY_FILE", "REDIS_PASSWORD_FILE")
    given = dict.fromkeys(names, "/run/secrets/x")
    assert set(child_environment("env_server", given)) == {"ARLARENA_ENVIRONMENT_TOKEN_FILE"}
    assert set(child_environment("trainer", given)) == {"ARLARENA_ENVIRONMENT_TOKEN_FILE"}
    assert set(child_environment("inference", given)) == {"ARLARENA_INFERENCE_API_KEY_FILE"}
    assert set(child_environment("rollout", given)) == set(names[:2])
    assert service_variables(given) == {}
    assert set(service_variables(given, with_token=True)) == {"ARLARENA_ENVIRONMENT_TOKEN_FILE"}
