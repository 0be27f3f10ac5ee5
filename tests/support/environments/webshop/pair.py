"""Plays the same actions in the environment and in the reference (`webshop_reference`), and compares all pages."""

from __future__ import annotations

from support.environments.webshop_reference import ReferenceShop
from support.environments.webshop_support import shop_environment, small_catalogue

from arlarena.environments.webshop.shop.reward import score_purchase
from arlarena.proto.env_api import ResetSpec

STRANGE = (
    "nonsense", "click[]", "search[]", "click[search]", "Click[buy now]", "click[ buy now]", "search[a]b]c", "click[x",
    "search[x\ny]", "click[Buy Now] or not", "search[the [big] one]", "", "[x]", "click[nothing]",
)  # fmt: skip
SEARCHES = ("search[home]", "search[ ]", "search[zebra]", 'search["red" a+b  c]', "search[HOME Lamp]", "search[bold]")


class Pair:
    """A visit to the shop with the same actions in the environment and in the reference."""

    def __init__(self, form, index=0, show_attributes=False, catalogue=None):
        """Start at the goal `index`. `catalogue`: default: `small_catalogue`."""
        catalogue = catalogue or small_catalogue()
        self.form = form
        environment = shop_environment(catalogue, observation=form, show_attributes=show_attributes)
        self.game = environment.game(environment.task(ResetSpec(index=index)))
        self.compared = 0
        self.reference = ReferenceShop(catalogue, self.game.goal.instruction, self.score, show_attributes)
        self.compare()

    def score(self, number, options):
        bought = self.game.shop.catalogue.product(number)
        return score_purchase(self.game.goal, self.game.wanted, bought, options.values()).total

    def play(self, action):
        valid = self.game.accepts(action)
        self.game.play(action)
        assert self.reference.step(action) == valid, action
        self.compare(action)

    def compare(self, action=""):
        assert self.game.text() == self.reference.text(self.form), action
        self.compared += 1
        assert (self.reference.reward is not None) == self.game.over
        if not self.game.over:
            assert list(self.game.page.clickables) == list(self.reference.clickables())


def play_random_visits(form, rng, compared, catalogue=None):
    """Play random visits until `compared` pages are compared. Each visit has the next training goal."""
    total = index = 0
    goals = (catalogue or small_catalogue()).sizes()["train"]
    while total < compared:
        pair = Pair(form, index % goals, catalogue=catalogue)
        while not pair.game.over and pair.compared < 30:
            pair.play(random_action(pair, rng))
        total, index = total + pair.compared, index + 1


def random_action(pair, rng):
    clickables = [name for name in pair.game.page.clickables if name != "buy now" or rng.random() < 0.05]
    if rng.random() < 0.1 or not clickables:
        return rng.choice(STRANGE)
    if pair.game.place.page == "search" or rng.random() < 0.1:
        return rng.choice(SEARCHES)
    return f"click[{rng.choice(clickables)}]"


def play_all_pages(form, number, catalogue=None):
    """Play one visit that clicks every option of a product, shows all its pages, and buys it."""
    pair = Pair(form, show_attributes=True, catalogue=catalogue)
    product = pair.game.shop.catalogue.product(number)
    for value in [None, *(value for values in product.options.values() for value in values)]:
        if value is not None:
            pair.play(f"click[{value}]")
        if pair.game.place.page == "sub_page":
            pair.play("click[< prev]")
        if pair.game.over:  # an option called "buy now"
            pair = Pair(form, show_attributes=True, catalogue=catalogue)
        if pair.game.place.page != "item":
            pair.play(f"search[{product.asin}]")
            pair.play(f"click[{product.asin}]")
    assert pair.game.place.product == number
    for name in ("description", "features", "reviews", "attributes"):
        pair.play(f"click[{name}]")
        pair.play("click[< prev]")
    pair.play("click[buy now]")
    assert pair.game.over
