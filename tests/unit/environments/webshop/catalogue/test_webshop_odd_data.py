"""A catalogue of official files with odd products: what is read and what is left out; every page can be played."""

import random

import pytest
from support.environments.webshop.odd_data import ODD, SCRIPT, asin_of, write_odd
from support.environments.webshop.pair import play_all_pages, play_random_visits
from support.environments.webshop_catalogue_support import FakeNouns, Options, entry, write_official

from arlarena.environment.contract import CHECKS, NotApplicable
from arlarena.environments.webshop.catalogue import open as open_module
from arlarena.environments.webshop.catalogue.open import open_catalogue
from arlarena.environments.webshop.environment import load
from arlarena.environments.webshop.shop.session import START, after_search
from arlarena.proto.env_api import ResetSpec

LONG_SEARCHES = (
    "red shoe " * 1112, "x" * 10_000, "[" * 10_000, "ﬁ茶" * 5000, "a.b" * 3333,
    "\x00\x1b[31m\r\t\x7f\u2028shoe", "the and of with",
    "' OR 1=1 --", "<script>alert(1)</script>", "\ud800 shoe", "%s %n {0}",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_odd(tmp_path_factory.mktemp("odd") / "data")


@pytest.fixture(scope="module")
def opened(folder):
    """The catalogue of the human goals, and that of the synthetic goals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_module, "NounFinder", FakeNouns)
        return {
            goals: open_catalogue(Options(data=folder, index=folder.parent / goals, goals=goals))
            for goals in ("human", "synthetic")
        }


@pytest.fixture(scope="module")
def catalogue(opened):
    return opened["human"]


def options_of(catalogue, split, number):
    goals = (catalogue.goal(split, index) for index in range(catalogue.sizes()[split]))
    return {str(goal.options) for goal in goals if goal.product == number}


def product(catalogue, name):
    return catalogue.product(catalogue.number(asin_of(name)))


def test_prices_are_read_from_texts_and_numbers(catalogue):
    found = {name: product(catalogue, name).price_text for name in list(ODD)[:4]}
    assert found == {
        "no price": "$100.0",
        "price range": "$10.0 to $14.5",
        "thousands": "$1234.56",
        "price as a number": "$12.98",
    }
    assert product(catalogue, "price as a number").price == 12.98


def test_products_that_cannot_be_used_are_left_out_and_named(catalogue):
    assert len(catalogue) == len(ODD)
    text = "\n".join(catalogue.warnings)
    for part in (
        "a second product with the same asin was left out: 1 time",
        "a product without a name was left out: 2 times",
        "a product without an asin was left out: 1 time",
        "an entry that is no object was left out: 2 times",
        "instructions for a product that the catalogue does not have were left out: 1 time, first in ",
        "items_human_ins.json, product B99",
        "an instruction without text was left out: 2 times",
        "an instruction without attributes was left out: 1 time",
    ):
        assert part in text


def test_goals_of_people_may_have_no_options(catalogue):
    goals = [catalogue.goal(split, index) for split, size in catalogue.sizes().items() for index in range(size)]
    assert {tuple(goal.options) for goal in goals} == {(), ("red",)}
    assert {goal.product for goal in goals} == set(range(len(ODD)))


def test_options_that_differ_by_case_are_one_clickable_and_no_goal_leaks(opened):
    catalogue = opened["synthetic"]
    number = catalogue.number(asin_of("case"))
    assert catalogue.product(number).options == {"size": ["small"] * 3, "color": ["red"] * 2}
    kept = {split: options_of(catalogue, split, number) for split in catalogue.sizes()}
    assert sum(map(len, kept.values())) >= 1
    assert not kept["train"] & (kept["validation"] | kept["test"])


def test_goals_with_the_same_options_in_another_order_do_not_leak(tmp_path, monkeypatch):
    monkeypatch.setattr(open_module, "NounFinder", FakeNouns)
    asins = [f"B{number}" for number in range(40)]
    human = {
        asin: [
            {"instruction": f"{asin} {number}", "instruction_attributes": ["a"], "instruction_options": options}
            for number, options in enumerate([["red", "small"], ["small", "red"], ["red", "small"]])
        ]
        for asin in asins
    }
    data = write_official(tmp_path / "data", [entry(asin) for asin in asins], human=human)
    catalogue = open_catalogue(Options(data=data, index=tmp_path / "index", goals="human"))
    found = {
        split: {catalogue.goal(split, index).product for index in range(size)}
        for split, size in catalogue.sizes().items()
    }
    assert catalogue.sizes()["test"] == 20
    assert catalogue.sizes()["validation"] == 40
    assert found["train"]
    assert not found["train"] & (found["validation"] | found["test"])


def test_of_axes_that_differ_by_case_the_last_counts_as_in_the_original(catalogue):
    assert product(catalogue, "axes that differ by case").options == {"color": ["blue"]}


def test_fields_that_are_null_are_empty(catalogue):
    one = product(catalogue, "null")
    assert (one.description, one.bullets, one.options, one.category, one.query, one.image) == ("", [], {}, "", "", "")
    assert (one.price_text, one.attributes) == ("$100.0", ["DUMMY_ATTR"])


@pytest.mark.parametrize("form", ["text", "rich"])
@pytest.mark.parametrize("name", ODD)
def test_all_pages_of_an_odd_product_equal_the_reference(catalogue, form, name):
    play_all_pages(form, catalogue.number(asin_of(name)), catalogue)


@pytest.mark.parametrize("form", ["text", "rich"])
def test_random_visits_of_odd_products_equal_the_reference(catalogue, form):
    play_random_visits(form, random.Random(1), 60, catalogue)


def test_hostile_texts_are_texts_of_the_observation(catalogue):
    state = after_search(catalogue, START, "lamp script alert")
    assert catalogue.number(asin_of("html")) in state.hits
    assert SCRIPT in product(catalogue, "html").title


@pytest.mark.parametrize("words", LONG_SEARCHES, ids=range(len(LONG_SEARCHES)))
def test_a_strange_search_is_a_step_like_any_other(opened, folder, monkeypatch, words):
    monkeypatch.setattr(open_module, "NounFinder", FakeNouns)
    options = {"data": str(folder), "index": str(folder.parent / "human"), "goals": "human"}
    environment = load("test", options)
    first, again = (environment.start(environment.task(ResetSpec(index=0))) for _ in range(2))
    results = [episode.step(f"<think>x</think><action>search[{words}]</action>") for episode in (first, again)]
    assert results[0].observation.text == results[1].observation.text
    assert results[0].metadata.state_key == results[1].metadata.state_key
    assert first.step("<think>x</think><action>search[shoe]</action>").observation.action_valid


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_environment_on_odd_products_fulfils_the_contract(opened, folder, check):
    options = {"data": str(folder), "index": str(folder.parent / "human"), "goals": "human"}
    try:
        check(load("test", options))
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_a_server_warns_about_what_was_left_out(opened, folder):
    options = {"data": str(folder), "index": str(folder.parent / "human"), "goals": "human"}
    assert load("test", options).warnings == opened["human"].warnings
    assert load("test", options | {"max_results": 5}).warnings == opened["human"].warnings


@pytest.mark.parametrize(
    ("pricing", "text", "warned"),
    [
        (5, "$5.0", False), (0, "$100.0", False), (float("nan"), "$100.0", False), ([], "$100.0", False),
        (True, "$100.0", True), (-3, "$100.0", True), (float("inf"), "$100.0", True), (10**400, "$100.0", True),
        ("$" + "9" * 400, "$100.0", True), (["$5"], "$100.0", True), ({"usd": 5}, "$100.0", True),
        ("$10.00 - $14.50", "$10.0 to $14.5", False), ("$14.50$10.00", "$14.5 to $10.0", False),
        ("10$", "$100.0", True),
    ],
)  # fmt: skip
def test_odd_prices(tmp_path, monkeypatch, pricing, text, warned):
    monkeypatch.setattr(open_module, "NounFinder", FakeNouns)
    data = write_official(tmp_path / "data", [entry(pricing=pricing)])
    catalogue = open_catalogue(Options(data=data, index=tmp_path / "index"))
    one = catalogue.product(0)
    assert one.price_text == text
    assert 0 <= one.price <= 100
    assert bool(catalogue.warnings) == warned
    assert all(len(warning) < 500 for warning in catalogue.warnings)
