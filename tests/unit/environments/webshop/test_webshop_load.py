"""The environment as a server loads it, on the generated catalogue: contract, cache and options."""

import pytest
from support.environments.webshop_generated import TINY

from arlarena.environment.contract import CHECKS, NotApplicable
from arlarena.environments.webshop.environment import load
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import ResetSpec

SETTINGS = {"default": {}, "tiny": TINY}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    return cache


@pytest.fixture(scope="module", params=SETTINGS)
def environment(request, cache):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(cache))
        patched.delenv("WEBSHOP_DATA", raising=False)
        yield load("test", SETTINGS[request.param])


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_generated_catalogue_fulfils_the_contract(environment, check):
    try:
        check(environment)
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_catalogue_is_built_once_per_options(own_cache):
    options = {"products": 120, "evaluation_goals": 4}
    first, again = load("test", options), load("test", options | {"max_steps": 9})
    assert first.version == again.version
    assert [split.size for split in again.info.splits] == [1_000_000, 4, 4]
    other = load("test", options | {"catalogue_seed": 3})
    assert other.version != first.version
    folder = own_cache / "arlarena" / "webshop"
    built = {path: path.stat().st_mtime_ns for path in folder.glob("*/meta.json")}
    load("test", options)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/meta.json")} == built


def test_goal_options_change_the_version(own_cache):
    options = {"products": 120, "evaluation_goals": 4}
    versions = {load("test", options | more).version for more in ({}, {"goal_attributes": 1}, {"max_results": 5})}
    assert len(versions) == 3


def test_search_finds_at_most_max_results(own_cache):
    environment = load("test", {"products": 120, "evaluation_goals": 4, "max_results": 3})
    episode = environment.start(environment.task(ResetSpec(index=0)))
    assert "Page 1 (Total results: 3)" in episode.step("search[premium for the home]").observation.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"products": 5}, "at least 60 products"),
        ({"products": 120, "axes": 0}, "evaluation_goals = 512"),
        ({"max_results": 51}, "max_results"),
        ({"texts": "long"}, "texts"),
    ],
)
def test_impossible_options_are_errors_of_the_configuration(own_cache, options, message):
    with pytest.raises(ConfigError, match=message):
        load("[environment.options]", options)
