"""Which variables of the launcher's environment its children get."""

import re
from pathlib import Path

import pytest

from arlarena.console.launch.child_environment import SERVICES, child_environment

ROOT = Path(__file__).resolve().parents[4]
ENVIRONMENT = {
    "PATH": "/bin",
    "HOME": "/root",
    "LC_ALL": "C",
    "HF_HOME": "/hf",
    "HF_TOKEN": "hf-token",
    "CUDA_VISIBLE_DEVICES": "0",
    "NCCL_DEBUG": "INFO",
    "REDIS_URL": "redis://:pw@h",
    "REDIS_PASSWORD": "pw",
    "ARLARENA_INFERENCE_ADMIN_TOKEN": "admin",
    "ARLARENA_INFERENCE_API_KEY": "key",
    "ARLARENA_ENVIRONMENT_TOKEN": "env-token",
    "ARLARENA_ROLLOUT_BATCH_SIZE": "3",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "OPENAI_API_KEY": "openai",
    "https_proxy": "http://u:pw@proxy:1",
    "http_proxy": "http://proxy:1",
    "ALFWORLD_DATA": "/alf",
    "MY_SEARCH_KEY_FILE": "/key",
    "MY_TOKEN": "mine",
}
SECRETS = {"HF_TOKEN", "ARLARENA_INFERENCE_ADMIN_TOKEN", "ARLARENA_INFERENCE_API_KEY", "REDIS_URL", "REDIS_PASSWORD",
           "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "https_proxy", "MY_TOKEN"}  # fmt: skip


def test_the_environment_server_gets_no_secret_but_its_token():
    found = child_environment("env_server", ENVIRONMENT)
    assert found.keys() & SECRETS == set()
    assert {"PATH", "HF_HOME", "ARLARENA_ENVIRONMENT_TOKEN", "http_proxy", "ALFWORLD_DATA"} <= found.keys()


def test_the_policy_server_gets_its_own_settings():
    found = child_environment("inference", ENVIRONMENT)
    assert {"HF_TOKEN", "CUDA_VISIBLE_DEVICES", "ARLARENA_INFERENCE_API_KEY", "https_proxy"} <= found.keys()
    assert not {"ARLARENA_ENVIRONMENT_TOKEN", "REDIS_URL", "REDIS_PASSWORD", "AWS_SECRET_ACCESS_KEY"} & found.keys()


def test_the_environment_server_gets_every_variable_that_an_environment_reads():
    """But for the token of WebShop's page for people, which `arlarena up` does not serve."""
    files = list((ROOT / "environments").glob("*/arlarena/environments/*/settings.py"))
    read = {name for file in files for name in re.findall(r"environ[^\n]*\"([A-Z_]+)\"", file.read_text())}
    assert {"ALFWORLD_DATA", "TIR_MATH_DATA", "WEBSHOP_DATA"} <= read
    variables = dict.fromkeys(read - {"WEBSHOP_HUMAN_TOKEN"}, "/a")
    assert child_environment("env_server", variables) == variables


@pytest.mark.parametrize("service", SERVICES)
def test_nobody_gets_variables_that_nobody_named(service):
    unnamed = {"AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "MY_TOKEN", "REDIS_PASSWORD", "MY_SEARCH_KEY_FILE"}
    found = child_environment(service, ENVIRONMENT)
    assert not unnamed & found.keys()
    assert found["PATH"] == "/bin"


def test_the_user_names_further_ones_and_a_secret_by_its_whole_name():
    assert "MY_SEARCH_KEY_FILE" in child_environment("env_server", ENVIRONMENT, ("MY_*",))
    assert "MY_TOKEN" not in child_environment("env_server", ENVIRONMENT, ("MY_*",))
    assert "MY_TOKEN" in child_environment("env_server", ENVIRONMENT, ("MY_TOKEN",))
    assert "MY_TOKEN" in child_environment("trainer", ENVIRONMENT, ("MY_*",))
