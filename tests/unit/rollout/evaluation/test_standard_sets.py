"""The definitions of the standard evaluation sets, their digests, and the page that lists them."""

import hashlib
from pathlib import Path

import pytest

from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.sets.digest import tasks_digest
from arlarena.rollout.evaluation.sets.standard import (
    describe_sets,
    find_set,
    flat_options,
    published_pins,
    set_options,
    standard_sets,
)

ROOT = Path(__file__).resolve().parents[4]


def test_the_digest_is_the_hash_of_the_sorted_names() -> None:
    tasks = [("sokoban/test/1", "b7"), ("sokoban/test/0", "a3")]
    expected = hashlib.blake2b(b"sokoban/test/0 a3\nsokoban/test/1 b7", digest_size=8).hexdigest()
    assert tasks_digest(tasks) == expected
    assert tasks_digest(reversed(tasks)) == expected
    assert tasks_digest([("sokoban/test/1", "b7"), ("sokoban/test/0", "a4")]) != expected


def test_every_set_without_data_has_a_digest_and_no_other_set_has_an_invented_one() -> None:
    sets, pins = standard_sets(), published_pins()
    assert {"sokoban-v1", "alfworld-v1", "webshop-v1", "tir-math-v1", "alfworld-official-unseen-v1"} <= sets.keys()
    assert pins.keys() <= sets.keys()
    assert {name for name, one in sets.items() if not one.needs} <= pins.keys()
    assert len({pin.digest for pin in pins.values()}) == len(pins)
    for name, pin in pins.items():
        assert len(bytes.fromhex(pin.digest)) == 16
        wanted = True if name.partition("-")[2].startswith("official") else (False, None)
        assert pin.official is wanted or pin.official in wanted, name


def test_the_page_has_the_present_digests() -> None:
    page = (ROOT / "docs" / "reference" / "evaluation-sets.md").read_text(encoding="utf-8")
    table = describe_sets(published_pins(), list(standard_sets().values()))
    assert page.endswith(table), "run python -m scripts.evaluation_sets"
    assert published_pins()["sokoban-v1"].digest in page
    assert "none yet: needs the official games of ALFWorld" in page


def test_the_tasks_of_a_set_have_its_split_indices_and_seed() -> None:
    standard = find_set("sokoban-hard-v1")
    assert standard.indices == tuple(range(128))
    assert standard.tasks[-1].id == "sokoban/test/127"
    assert {task.seed for task in standard.tasks} == {0}


def test_an_unknown_set_names_the_nearest_one() -> None:
    with pytest.raises(EvaluationError, match="sokoban-v1"):
        find_set("sokoban-v11")


def test_free_options_can_be_given_and_options_of_the_set_cannot() -> None:
    standard = find_set("sokoban-demo-v1")
    options = set_options(standard, {"template": "compact", "history": 0})
    assert options == {"size": 7, "min_moves": 4, "max_moves": 8, "template": "compact", "history": 0}
    with pytest.raises(EvaluationError, match="fixes the option max_steps"):
        set_options(standard, {"max_steps": 99})
    official = find_set("alfworld-official-unseen-v1")
    assert set_options(official, {"games": "/data"}) == {"games": "/data"}


def test_nested_options_have_dotted_names() -> None:
    assert flat_options({"a": {"b": {"c": 1}, "d": (2, 3)}, "e": None, "f": {}}) == {
        "a.b.c": 1,
        "a.d": [2, 3],
        "e": None,
        "f": {},
    }
