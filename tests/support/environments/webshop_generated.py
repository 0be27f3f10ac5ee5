"""Generated catalogues for tests, and simple policies that measure their difficulty."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from arlarena.environments.webshop.catalogue.limited import LimitedCatalogue
from arlarena.environments.webshop.catalogue.open import open_generated
from arlarena.environments.webshop.environment import WebShopEnvironment
from arlarena.environments.webshop.expert import winning_clicks
from arlarena.environments.webshop.generated.catalogue import generated
from arlarena.environments.webshop.options import WebShopOptions
from arlarena.environments.webshop.search.index import TOP
from arlarena.environments.webshop.shop.reward import score_purchase
from arlarena.proto.env_api import ResetSpec

# Options with short observations, for a tiny policy.
TINY = {
    "products": 2000, "texts": "short", "types": 6, "axes": 1, "values": 4, "goal_attributes": 2, "max_results": 5,
    "template": "compact", "observation": "rich", "history": 0,
}  # fmt: skip

CATALOGUE_OPTIONS = {
    "products", "catalogue_seed", "evaluation_goals", "texts", "types", "axes", "values", "goal_attributes",
}  # fmt: skip


@cache
def _folders():
    return TemporaryDirectory(prefix="webshop-")


@cache
def catalogue(**options):
    """Return the generated catalogue of these options. It is built once in a process."""
    settings = WebShopOptions(**options)
    source = generated(settings.generated())
    return open_generated(source, Path(_folders().name) / source.key.replace("/", "-"))


def generated_environment(**options):
    """Return the environment with a generated catalogue. The catalogue is built once for equal catalogue options."""
    settings = WebShopOptions(**options)
    shop = catalogue(**{name: value for name, value in options.items() if name in CATALOGUE_OPTIONS})
    limited = settings.max_results < TOP
    return WebShopEnvironment(settings, LimitedCatalogue(shop, settings.max_results) if limited else shop)


def game(environment, split, index):
    """Return a new game of a task."""
    return environment.game(environment.task(ResetSpec(split=split, index=index)))


def satisfies(shop, goal, product):
    """Return whether buying `product` with the right options has the score 1."""
    return winning_clicks(goal, shop.product(goal.product), product, {}) is not None


def random_scores(environment, split, count):
    """Return the scores of a policy that clicks at random, and searches for one to four random words of titles."""
    shop = environment.shop.catalogue
    words = sorted({word for number in range(500) for word in shop.product(number).title.lower().split()})
    rng, scores = random.Random(7), []
    for index in range(count):
        played = game(environment, split, index)
        for _ in range(environment.horizon):
            name = rng.choice(list(played.page.clickables))
            searched = " ".join(rng.sample(words, rng.randint(1, 4)))
            played.play(f"search[{searched}]" if name == "search" else f"click[{name}]")
            if played.over:
                break
        scores.append(played.score)
    return scores


def first_result_scores(environment, split, count):
    """Return the scores of a policy that searches for the unchanged instruction and buys the first result."""
    shop, scores = environment.shop.catalogue, []
    for index in range(count):
        goal = shop.goal(split, index)
        first = shop.product(shop.search(goal.instruction)[0])
        scores.append(score_purchase(goal, shop.product(goal.product), first, []).total)
    return scores
