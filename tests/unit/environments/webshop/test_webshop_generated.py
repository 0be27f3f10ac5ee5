"""The generated catalogue: products, goals, splits, and how hard it is."""

import math
import random
import re
import statistics
import subprocess
import sys

import pytest
from support.environments.webshop_generated import (
    TINY,
    catalogue,
    first_result_scores,
    game,
    generated_environment,
    random_scores,
    satisfies,
)

from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.generated.catalogue import generated
from arlarena.environments.webshop.generated.goals import GeneratedGoals, content_key, price_limit
from arlarena.environments.webshop.generated.options import GeneratedOptions
from arlarena.environments.webshop.generated.products import make_products
from arlarena.environments.webshop.generated.vocabulary import vocabulary
from arlarena.environments.webshop.generated.words import load_words
from arlarena.environments.webshop.shop.goal import NO_LIMIT
from arlarena.environments.webshop.shop.product import Product
from arlarena.environments.webshop.shop.reward import matched_attributes, matched_options, score_purchase

CATEGORIES = {"fashion", "beauty", "electronics", "garden", "grocery"}
FINGERPRINT = """
import hashlib, msgspec
from arlarena.environments.webshop.generated.goals import GeneratedGoals
from arlarena.environments.webshop.generated.options import GeneratedOptions
from arlarena.environments.webshop.generated.products import make_products
options = GeneratedOptions(products=600, evaluation_goals=20)
products = make_products(options)
goals = GeneratedGoals(options, products.__getitem__)
some = [goals.goal(split, index) for split in goals.sizes() for index in range(20)]
print(hashlib.sha256(msgspec.json.encode([products, some])).hexdigest())
"""


def small(**changes):
    return GeneratedOptions(**{"products": 600, "evaluation_goals": 20} | changes)


def goals_of(options):
    products = make_products(options)
    return products, GeneratedGoals(options, products.__getitem__)


def has(product, name, value):
    return value in product.options.get(name, [])


def with_attributes(*attributes):
    return Product("", "", "", [], 1.0, "", {}, list(attributes), "", "", "")


def test_two_processes_make_the_same_products_and_goals():
    prints = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True, capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(prints) == 1
    assert len(prints.pop()) == 65


def test_default_catalogue_has_all_categories_and_unique_products():
    shop = catalogue()
    products = [shop.product(number) for number in range(len(shop))]
    assert len(products) == 10_000
    assert len({product.asin for product in products}) == 10_000
    assert all(re.fullmatch(r"B0[0-9A-Z]{8}", product.asin) for product in products)
    assert {product.category for product in products} == CATEGORIES
    types = {(product.category, product.query) for product in products}
    assert all(28 <= sum(category == kind[0] for kind in types) <= 35 for category in CATEGORIES)
    assert all(2 <= len(values) <= 8 for product in products for values in product.options.values())
    assert all(len(product.product_category.split(" › ")) == 3 for product in products)


def test_prices_are_single_or_in_the_range_that_the_text_names():
    ranges = 0
    for product in make_products(small()):
        named = [float(price) for price in re.findall(r"\$([\d.]+)", product.price_text)]
        ranges += len(named) == 2
        assert named[0] <= product.price <= named[-1]
        assert product.price_text == " to ".join(f"${price}" for price in named)
    assert 60 < ranges < 180


def test_nouns_are_words_of_the_title_without_its_adjectives():
    for product in make_products(small()):
        words = re.findall(r"[a-z]+", product.title.lower())
        assert product.nouns
        assert set(product.nouns) <= set(words)
        assert not {"for", "and", "with", "long", "easy"} & set(product.nouns)


def test_texts_of_a_product_name_its_own_attributes_and_no_others():
    words = load_words()
    types = {kind.query: kind for kind in words.types}
    for product in make_products(small()):
        texts = " ".join([product.title, product.description, *product.bullets]).lower()
        for attribute in types[product.query].attributes:
            assert (attribute in texts) == (attribute in product.attributes)
            assert matched_attributes([attribute], product) == (attribute in product.attributes)


def test_attributes_and_values_are_told_apart_by_the_score():
    words = load_words()
    for attribute in words.attributes:
        others = with_attributes(*(other for other in words.attributes if other != attribute))
        assert not matched_attributes([attribute], others), attribute
    axes = {(axis, values) for kind in words.types for axis, values in kind.axes.items()}
    for axis, values in axes:
        for value in values:
            assert matched_options([(axis, value)], [value]), f"{axis} {value} cannot be satisfied"
            same = sum(matched_options([(axis, value)], [other]) for other in values)
            assert same <= 2, f"{axis} {value} equals {same} values"


def test_near_duplicates_of_a_goals_product_nearly_satisfy_it():
    products, goals = goals_of(small())
    near = 0
    for index in range(60):
        goal = goals.goal("train", index)
        wanted = products[goal.product]
        scores = [
            score_purchase(goal, wanted, product, [value for name, value in goal.options if has(product, name, value)])
            for product in products
            if product.query == wanted.query
        ]
        near += any(0.5 <= score.total < 1 for score in scores)
    assert near >= 54


@pytest.mark.parametrize("texts", ["full", "short"])
def test_goals_are_satisfied_by_their_own_product(texts):
    products, goals = goals_of(small(texts=texts))
    for split, size in goals.sizes().items():
        for index in range(min(size, 100)):
            goal = goals.goal(split, index)
            wanted = products[goal.product]
            score = score_purchase(goal, wanted, wanted, [value for _, value in goal.options])
            assert score.total == 1.0
            assert 1 <= len(goal.attributes) <= 3
            assert len(goal.options) <= 3
            assert set(goal.attributes) <= set(wanted.attributes)
            assert goal.price_upper > wanted.price
            assert goal.price_upper == NO_LIMIT or goal.instruction.endswith(
                f", and price lower than {goal.price_upper:.2f} dollars"
            )
            assert goal.instruction == goal.instruction.lower()
            assert all(value in goal.instruction for _, value in goal.options)


def test_instructions_are_phrased_in_many_ways_and_partly_paraphrased():
    _, goals = goals_of(small())
    made = [goals.goal("train", index) for index in range(300)]
    openings = {" ".join(goal.instruction.split()[:3]) for goal in made}
    literal = statistics.mean(attribute in goal.instruction for goal in made for attribute in goal.attributes)
    assert len(openings) >= 20
    assert 0.3 < literal < 0.7
    assert {len(goal.options) for goal in made} == {0, 1, 2, 3}
    assert {len(goal.attributes) for goal in made} == {1, 2, 3}


def test_price_limits_are_among_the_next_four_multiples_of_ten():
    rng = random.Random(3)
    limits = [price_limit(rng, 24.99) for _ in range(400)]
    assert set(limits) == {40.0, 50.0, 60.0}  # the larger of two of 30, 40, 50 and 60
    assert limits.count(60.0) > limits.count(50.0) > limits.count(40.0)
    assert price_limit(rng, 985.0) == NO_LIMIT
    assert price_limit(rng, 975.0) == 990.0


def test_splits_share_no_content_and_evaluation_goals_differ():
    shop = catalogue()
    keys = {split: [] for split in shop.sizes()}
    for split, size in shop.sizes().items():
        for index in range(min(size, 2000)):
            goal = shop.goal(split, index)
            keys[split].append(content_key(shop.product(goal.product).asin, goal.options))
    assert len(set(keys["validation"])) == len(keys["validation"]) == 512
    assert len(set(keys["test"])) == len(keys["test"]) == 512
    assert len(set(keys["train"])) > 1900
    sets = [set(found) for found in keys.values()]
    assert len(set.union(*sets)) == sum(map(len, sets))


def test_evaluation_goals_are_a_prefix_of_a_larger_panel():
    few, many = (goals_of(small(evaluation_goals=count))[1] for count in (10, 20))
    assert [few.goal("test", index) for index in range(10)] == [many.goal("test", index) for index in range(10)]
    with pytest.raises(IndexError, match="at most 9"):
        few.goal("test", 10)


def test_few_other_products_satisfy_a_goal():
    shop = catalogue()
    products = [shop.product(number) for number in range(len(shop))]
    others = []
    for index in range(25):
        goal = shop.goal("test", index)
        others.append(sum(satisfies(shop, goal, product) for product in products) - 1)
    assert min(others) >= 0
    assert statistics.median(others) <= 10
    assert statistics.mean(others) < 20  # 0.2 % of the products


def test_random_policy_scores_below_a_tenth():
    scores = random_scores(generated_environment(), "test", 150)
    assert sum(score > 0 for score in scores) > 0  # it does buy products
    assert statistics.mean(scores) < 0.1


def test_first_result_of_the_instruction_succeeds_in_less_than_15_percent():
    scores = first_result_scores(generated_environment(), "test", 300)
    assert statistics.mean(score == 1.0 for score in scores) < 0.15
    assert statistics.mean(scores) > 0.3  # the search does find products of the right kind


def test_short_texts_are_spelt_with_few_tokens():
    environment = generated_environment(**TINY)
    pieces = sorted(environment.vocabulary, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, pieces)) + r"|[\s\S]")
    played, lengths = game(environment, "train", 0), []
    for reply in played.plan():
        tokens = pattern.findall(played.task + played.prompt_text() + played.offered())
        lengths.append(len(tokens))
        assert [token for token in tokens if token not in environment.vocabulary] == []
        played.play(re.search("<action>(.*)</action>", reply)[1])
    assert played.solved
    assert max(lengths) <= 140
    assert len(environment.vocabulary) < 2500


@pytest.mark.parametrize("products", [60, 900, 1000])
def test_short_ids_are_unique_and_made_of_as_few_parts_as_possible(products):
    options = GeneratedOptions(products=products, texts="short", evaluation_goals=20)
    ids = [product.asin for product in make_products(options)]
    firsts, lasts = ({one[place : place + 3] for one in ids} for place in (0, 3))
    assert len(set(ids)) == products
    assert max(len(firsts), len(lasts)) == math.ceil(math.sqrt(products))
    assert firsts | lasts <= set(vocabulary(options))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"products": 1}, "products = 1: the generated catalogue has at least 60"),
        ({"products": 10_001, "texts": "short"}, 'texts = "short" has at most 10000'),
    ],
)
def test_impossible_options_are_named(changes, message):
    with pytest.raises(CatalogueError, match=message):
        generated(GeneratedOptions(**changes))


def test_too_many_evaluation_goals_are_named():
    products = make_products(small(axes=0))
    with pytest.raises(CatalogueError, match="evaluation_goals = 512: with these options there are only"):
        GeneratedGoals(small(axes=0, evaluation_goals=512), products.__getitem__)


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": 0}, {"values": 1}, {"types": 1}, {"goal_attributes": 1}, {"axes": 1, "values": 2, "texts": "short"},
        {"products": 60, "evaluation_goals": 2}, {"products": 601}, {"seed": 9}, {"types": 1000, "values": 1000},
    ],
)  # fmt: skip
def test_odd_options_give_a_catalogue(changes):
    options = small(**changes)
    products, goals = goals_of(options)
    assert len(products) == len({product.asin for product in products}) == options.products
    assert max(len(product.options) for product in products) <= options.axes
    assert max((len(v) for product in products for v in product.options.values()), default=0) <= options.values
    for split in goals.sizes():
        goal = goals.goal(split, 0)
        wanted = products[goal.product]
        assert score_purchase(goal, wanted, wanted, [value for _, value in goal.options]).total == 1.0
        assert len(goal.attributes) <= options.goal_attributes
    assert vocabulary(options)


def test_another_seed_gives_other_products():
    one, other = make_products(small()), make_products(small(seed=1))
    assert not {product.asin for product in one} & {product.asin for product in other}
    assert len({product.title for product in one} & {product.title for product in other}) < 10
