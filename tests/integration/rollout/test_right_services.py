"""The addresses that a command is given lead to the environment that is configured, and to services of the right kind:
real servers, and the commands as their processes run them.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.environments.environment_support import environment_server
from support.inference.inference_support import model, running_server, save

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import Refused
from arlarena.client.policy import PolicyClient
from arlarena.proto.config import exit_on_config_error
from arlarena.proto.trajectory import Sampling
from arlarena.rollout.__main__ import main

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def sokoban(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with environment_server(tmp_path_factory.mktemp("sokoban")) as (url, _):
        yield url


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(model(), tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def inference(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("inference"), f"model = '{policy}'\n") as server:
        yield server.url


def run(*arguments: str) -> int:
    """A command, with the exit code and the messages of the process but without the start of one."""
    return exit_on_config_error(partial(main, list(arguments)))


def configuration(folder: Path, policy: Path, environment: str) -> str:
    path = folder / "run.toml"
    path.write_text(
        f"[environment]\n{environment}\n[policy]\npath = '{policy}'\n[rollout]\nservice_retry_timeout_s = 5.0\n"
    )
    return str(path)


COMMANDS = {
    "evaluate": ("--count", "1", "--max-tokens", "2"),
    "demonstrate": ("--count", "1"),
    "worker": ("--run-name", "other"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_another_environment_than_the_configured_one_is_refused(
    command: str,
    sokoban: str,
    inference: str,
    policy: Path,
    tmp_path: Path,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "result"
    where = ["--config", configuration(tmp_path, policy, 'name = "alfworld"'), "--environment-url", sokoban]
    where += [] if command == "demonstrate" else ["--inference-url", inference]
    where += ["--redis-url", redis_url] if command == "worker" else ["--out", str(out)]
    assert run(command, *where, *COMMANDS[command]) == 2
    assert capsys.readouterr().err == (
        f"error: [environment] name = 'alfworld', but the environment server at {sokoban} serves 'sokoban': "
        "either change [environment] name, or give the address of another server with --environment-url\n"
    )
    assert not out.exists()


def test_the_name_that_a_variable_sets_is_the_configured_one(
    sokoban: str,
    policy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configuration(tmp_path, policy, 'name = "alfworld"')
    where = ("--config", config, "--environment-url", sokoban, "--count", "1", "--out", str(tmp_path / "result"))
    monkeypatch.setenv("ARLARENA_ENVIRONMENT_NAME", "sokoban")
    assert run("demonstrate", *where) == 0
    monkeypatch.setenv("ARLARENA_ENVIRONMENT_NAME", "tir_math")
    assert run("demonstrate", *where) == 2
    assert "[environment] name = 'tir_math'" in capsys.readouterr().err


def test_differing_options_are_logged(
    sokoban: str, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = '[environment.options]\nobservation = "grid"\ntemplate = "compact"\nmin_moves = 5\n'
    config = configuration(tmp_path, policy, f'name = "sokoban"\n{options}')
    where = ("--config", config, "--environment-url", sokoban, "--count", "1", "--out", str(tmp_path / "result"))
    assert run("demonstrate", *where) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (told,) = [line for line in lines if line["event"] == "other_environment_options"]
    assert told["level"] == "warning"
    assert told["options"] == {
        "observation": {"configured": "grid", "played": "grid+coordinates"},
        "min_moves": {"configured": 5, "played": 3},
    }


def test_a_service_of_the_wrong_kind_is_named(
    sokoban: str, inference: str, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(tmp_path, policy, 'name = "sokoban"')
    flags = ("--config", config, "--count", "1", "--out", str(tmp_path / "result"))
    for environment_url, inference_url, says in (
        (inference, inference, f"{inference} is a policy server, not an environment server"),
        (sokoban, sokoban, f"{sokoban} is an environment server, not a policy server"),
    ):
        assert run("evaluate", *flags, "--environment-url", environment_url, "--inference-url", inference_url) == 2
        said = capsys.readouterr().err
        assert f"error: {says}: " in said
        assert "{" not in said


async def test_clients_name_the_wrong_kind_at_every_request(sokoban: str, inference: str) -> None:
    async with EnvironmentClient(inference) as environments, PolicyClient(sokoban) as policies:
        for ask in (environments.info(), environments.open(1)):
            with pytest.raises(Refused, match="is a policy server, not an environment server"):
                await ask
        for question in (policies.model(), policies.version(), policies.chat([], Sampling())):
            with pytest.raises(Refused, match="is an environment server, not a policy server"):
                await question


async def test_a_refusal_of_the_right_kind_keeps_its_reason(sokoban: str) -> None:
    async with EnvironmentClient(sokoban) as environments:
        (session,) = await environments.open(1)
        with pytest.raises(Refused, match="unknown split 'rain'"):
            await session.reset(split="rain")
        await session.close()
