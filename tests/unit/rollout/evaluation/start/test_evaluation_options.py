"""Options of `arlarena eval` that are checked before anything starts."""

import importlib.util
import os
import socket
from unittest.mock import AsyncMock

import pytest
from support.evaluation.sdks import needs_sdk

from arlarena.proto.config import ConfigError
from arlarena.rollout.evaluation.models.protocol import SamplingRequest
from arlarena.rollout.evaluation.play.budgets import BudgetLimits
from arlarena.rollout.evaluation.play.limits import ModelLimits
from arlarena.rollout.evaluation.start.checkpoint import checkpoint_name, is_checkpoint
from arlarena.rollout.evaluation.start.checks import check_options, notes
from arlarena.rollout.evaluation.start.environments import choices_of, parse_environments, unique_names
from arlarena.rollout.evaluation.start.local_service import service_variables
from arlarena.rollout.evaluation.start.options import EvaluateOptions, assignment
from arlarena.rollout.evaluation.start.players import check_strategy
from arlarena.rollout.evaluation.start.tasks import TaskChoice

PRICES = """schema = 1
currency = "USD"
[[price]]
models = ["m"]
base_url = "http://127.0.0.1:9"
input = 1.0
output = 1.0
reasoning = 1.0
source = "test"
date = 2026-01-01
"""


def test_options_belong_to_the_environment_that_they_name():
    choices = parse_environments(
        ["sokoban", "http://host:8000", "guess", "sokoban"],
        ["sokoban:size=7", "guess:range.high=9", "guess:word=a=b:c", "sokoban:level=[1, 2]"],
    )
    assert [(one.name, one.url) for one in choices] == [
        ("sokoban", ""),
        ("http://host:8000", "http://host:8000"),
        ("guess", ""),
    ]
    assert choices[0].options == {"size": 7, "level": [1, 2]}
    assert choices[2].options == {"range": {"high": 9}, "word": "a=b:c"}


def test_the_only_environment_needs_no_name_in_its_options():
    (one,) = parse_environments(["tir_math"], ["data=/a:b/c", "tir_math:x=1"])
    assert one.options == {"data": "/a:b/c", "x": 1}


@pytest.mark.parametrize(
    ("environments", "options", "message"),
    [
        ([], [], "give --env NAME, --env URL, or --set NAME"),
        ([""], [], "--env '': write a name"),
        (["host:8000"], [], "--env 'host:8000': write a name such as sokoban, or an address such as http"),
        (["ftp://host"], [], "--env: "),
        (["sokoban"], ["size"], "--option size: write KEY=VALUE"),
        (["sokoban"], ["sokoban:=1"], "--option =…: write KEY=VALUE"),
        (["sokoban", "guess"], ["size=1"], "--option size: write NAME:KEY=VALUE; NAME is sokoban or guess"),
        (
            ["sokoban", "guess"],
            ["sokban:size=1"],
            "no option --env starts the environment 'sokban'; did you mean 'sokoban'?",
        ),
        (["http://host:1"], ["size=secret"], "--option size: an option needs --env NAME"),
        (["sokoban"], ["size=1", "size.x=2"], "--option size.x: size is not a table"),
    ],
)
def test_a_wrong_environment_or_option_is_named(environments, options, message):
    with pytest.raises(ConfigError) as caught:
        choices_of(environments, options, None)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_set_brings_its_environment_and_fixes_its_options():
    (one,) = choices_of([], ["template=compact"], "sokoban-hard-v1")
    assert (one.name, one.options["boxes"], one.options["template"]) == ("sokoban", 2, "compact")
    with pytest.raises(ConfigError, match=r"fixes the option boxes"):
        choices_of([], ["boxes=1"], "sokoban-hard-v1")
    with pytest.raises(ConfigError, match=r"did you mean 'sokoban-v1'"):
        choices_of([], [], "sokobn-v1")


def test_two_servers_of_the_same_environment_have_different_names():
    assert unique_names(["a", "b", "a", "a"]) == ["a", "b", "a-2", "a-3"]


def test_a_name_that_is_a_path_becomes_the_name_of_a_file():
    assert unique_names(["../../up", "org/env 2", "..", "org/env-2"]) == [
        "up",
        "org-env-2",
        "environment",
        "org-env-2-3",
    ]


def test_an_assignment_is_a_toml_value_or_text():
    assert assignment("--param", "a=0.5") == ("a", 0.5)
    assert assignment("--param", "effort=low") == ("effort", "low")
    with pytest.raises(ConfigError, match=r"^--param effort: write KEY=VALUE"):
        assignment("--param", "effort")


def options_of(tmp_path, model="m", **changes):
    given = {"directory": tmp_path / "out", "environments": ("guess",), "base_url": "http://127.0.0.1:9", **changes}
    return EvaluateOptions(model=model, **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits": ModelLimits(requests_per_minute=float("inf"))}, "--requests-per-minute inf: must be a finite"),
        ({"sampling": SamplingRequest(temperature=float("inf"))}, "--temperature inf: must be a finite number"),
        ({"budgets": BudgetLimits(money=float("inf"))}, "--max-cost inf: must be a finite number"),
        ({"budgets": BudgetLimits(money=1.0), "dry_run": True}, "--max-cost: the price of m at http://127.0.0.1:9 is"),
        ({"tasks": TaskChoice(tasks="x")}, "--tasks 'x'"),
        ({"strategy": "reakt"}, "--strategy reakt: unknown; did you mean 'react'?"),
        (
            {"strategy": "debate", "strategy_options": {"agent": 2}},
            "--strategy-option agent: debate has no such option",
        ),
        ({"strategy": "debate", "strategy_options": {"agents": 0}}, "--strategy debate: "),
        ({"strategy": "plain", "strategy_options": {"x": 0}}, "--strategy-option x: plain has no such option"),
        ({"set_name": "guess-v1", "tasks": TaskChoice("train")}, "--set guess-v1 fixes the tasks"),
        ({"set_name": "guess-v1", "environments": ("a", "b")}, "give at most one --env"),
        ({"set_name": "guess-v1", "seed": 5}, "--set guess-v1 has the seed 0: leave out --seed"),
        ({"set_name": "aime-2024-v1"}, "--set aime-2024-v1 has no published digest"),
        ({"model": "expert"}, "--base-url is for models; the player expert uses no model"),
        ({"model": "random", "base_url": None, "strategy": "react"}, "--strategy and --strategy-option are for models"),
        ({"model": "expert", "base_url": None, "budgets": BudgetLimits(money=1.0)}, "--max-cost is for models"),
        ({"model": "gpt-5", "base_url": None, "dry_run": True}, "did you mean 'openai/gpt-5'?"),
        ({"model": "./no-such-folder", "base_url": None}, "./no-such-folder: there is no such folder"),
    ],
)
async def test_a_wrong_option_is_refused_before_anything_starts(changes, message, tmp_path):
    options = options_of(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        await check_options(options, options.model)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def silent_server():
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def test_a_server_that_answers_late_is_accepted_and_an_address_without_a_server_is_not(
    tmp_path, silent_server, monkeypatch
):
    needs_sdk("openai")
    http = importlib.import_module("arlarena.rollout.evaluation.models.http")
    monkeypatch.setattr(http, "PROBE_S", 0.2)
    await check_options(options_of(tmp_path, base_url=silent_server), "m")
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConfigError, match=rf"--base-url {closed}: no server answers \(.+\); start the server, or"):
        await check_options(options_of(tmp_path, base_url=closed), "m")


async def test_a_misspelled_player_is_suggested(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown model 'randm': did you mean 'random'\?"):
        await check_options(options_of(tmp_path, "randm", base_url=None), "randm")


async def test_a_price_file_is_read_first_and_a_budget_of_money_needs_its_price(tmp_path, monkeypatch):
    needs_sdk("openai")
    http = importlib.import_module("arlarena.rollout.evaluation.models.http")
    monkeypatch.setattr(http, "connection_error", AsyncMock(return_value=""))
    (prices := tmp_path / "prices.toml").write_text(PRICES)
    options = options_of(tmp_path, prices=prices, budgets=BudgetLimits(money=1.0))
    price = await check_options(options, "m")
    assert price is not None
    assert price.input == 1.0
    prices.write_text("schema =")
    with pytest.raises(ConfigError, match=r"--prices: the price file .*prices\.toml cannot be read"):
        await check_options(options, "m")


async def test_the_results_need_a_directory(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/below", "dangling"):
        options = options_of(tmp_path, "expert", base_url=None, directory=tmp_path / name)
        with pytest.raises(ConfigError, match=r"--out .* is not a directory; choose another path"):
            await check_options(options, "expert")


async def test_a_key_is_needed_except_for_a_dry_run(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    await check_options(options_of(tmp_path, "openai/gpt-5", base_url=None, dry_run=True), "openai/gpt-5")
    message = "set the environment variable OPENAI_API_KEY" if importlib.util.find_spec("openai") else "SDK"
    with pytest.raises(ConfigError, match=message):
        await check_options(options_of(tmp_path, "openai/gpt-5", base_url=None), "openai/gpt-5")


def test_options_of_a_strategy_are_checked_without_an_environment():
    check_strategy("m", "debate", {"agents": 2, "judge": True})
    check_strategy("m", "react", {})
    check_strategy("random", "plain", {})


def test_repeated_attempts_of_a_deterministic_player_are_remarked(tmp_path):
    def remarks(model, temperature=None, attempts=4):
        sampling = SamplingRequest(temperature=temperature)
        return "".join(notes(options_of(tmp_path, model, attempts=attempts, sampling=sampling)))

    assert "the expert always plays a task in the same way, so --attempts 4" in remarks("expert")
    assert "--temperature 0" in remarks("m", 0.0)
    assert remarks("m") == remarks("m", 0.7) == remarks("random", 0.0) == remarks("m", 0.0, attempts=1) == ""


def test_the_name_of_a_checkpoint_changes_with_its_files_and_not_with_its_place(tmp_path, monkeypatch):
    def write(folder, weights):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "optimizer.pt").write_bytes(os.urandom(8))

    write(tmp_path / "a/policy", b"1")
    write(tmp_path / "b/policy", b"1")
    write(tmp_path / "c/policy", b"2")
    names = [checkpoint_name(str(tmp_path / folder / "policy")) for folder in "abc"]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("checkpoint/policy@")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "expert").mkdir()
    assert is_checkpoint("a/policy")
    assert not is_checkpoint("expert")
    with pytest.raises(ConfigError, match=r"expert: has no config\.json"):
        checkpoint_name("expert")


def test_services_inherit_no_secret():
    given = {"PATH": "/bin", "OPENAI_API_KEY": "sk-1", "ARLARENA_ENVIRONMENT_TOKEN": "t" * 20, "HF_TOKEN": "h"}
    assert service_variables(given) == {"PATH": "/bin"}
