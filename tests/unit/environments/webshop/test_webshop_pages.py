"""Pages and clickables beside an independent rendering: HTML, BeautifulSoup, and the original's conversion."""

import random

import pytest
from support.environments.webshop_reference import ReferenceShop
from support.environments.webshop_support import shop_environment, small_catalogue

from arlarena.environments.webshop.shop.reward import score_purchase
from arlarena.proto.env_api import ResetSpec

FORMS = ("text", "rich")
STRANGE = (
    "nonsense", "click[]", "search[]", "click[search]", "Click[buy now]", "click[ buy now]", "search[a]b]c", "click[x",
    "search[x\ny]", "click[Buy Now] or not", "search[the [big] one]", "", "[x]", "click[nothing]",
)  # fmt: skip
SEARCHES = ("search[home]", "search[ ]", "search[zebra]", 'search["red" a+b  c]', "search[HOME Lamp]", "search[bold]")


class Pair:
    """The same visit in the environment and in the reference."""

    def __init__(self, form, index=0, show_attributes=False):
        self.form, catalogue = form, small_catalogue()
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


def random_action(pair, rng):
    clickables = [name for name in pair.game.page.clickables if name != "buy now" or rng.random() < 0.05]
    if rng.random() < 0.1 or not clickables:
        return rng.choice(STRANGE)
    if pair.game.place.page == "search" or rng.random() < 0.1:
        return rng.choice(SEARCHES)
    return f"click[{rng.choice(clickables)}]"


@pytest.mark.parametrize("form", FORMS)
def test_pages_of_random_visits_equal_the_reference(form):
    rng, compared, index = random.Random(form), 0, 0
    while compared < 220:
        pair = Pair(form, index)
        while not pair.game.over and pair.compared < 30:
            pair.play(random_action(pair, rng))
        compared, index = compared + pair.compared, index + 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", range(60, 72))
def test_all_pages_of_an_odd_product_equal_the_reference(form, number):
    pair = Pair(form, show_attributes=True)
    product = pair.game.shop.catalogue.product(number)
    for value in [None, *(value for values in product.options.values() for value in values)]:
        if value is not None:
            pair.play(f"click[{value}]")
        if pair.game.place.page == "sub_page":
            pair.play("click[< prev]")
        if pair.game.over:  # an option called "buy now"
            pair = Pair(form, show_attributes=True)
        if pair.game.place.page != "item":
            pair.play(f"search[{product.asin}]")
            pair.play(f"click[{product.asin}]")
    assert pair.game.place.product == number
    for name in ("description", "features", "reviews", "attributes"):
        pair.play(f"click[{name}]")
        pair.play("click[< prev]")
    pair.play("click[buy now]")
    assert pair.game.over


def test_the_first_page_is_the_documented_one():
    pair = Pair("text")
    goal = pair.game.goal.instruction
    assert pair.game.text() == f"WebShop [SEP] Instruction: [SEP] {goal} [SEP] Search"
    pair.play("search[home]")
    assert pair.game.text().startswith(
        f"Instruction: [SEP] {goal} [SEP] Back to Search [SEP] Page 1 (Total results: 50) [SEP] Next > [SEP] A000000000"
    )


def test_a_page_behind_the_last_is_empty_and_leads_back():
    pair = Pair("text")
    pair.play("search[home]")
    for _ in range(998):
        assert pair.game.play("click[next >]") == 0.0
    assert pair.game.text().endswith("Page 999 (Total results: 50) [SEP] < Prev [SEP] Next >")
    pair.game.play("click[< prev]")
    assert "Page 998 " in pair.game.text()


def test_clicked_options_and_visited_products_are_marked_in_rich_pages():
    pair = Pair("rich")
    for action in ("search[home]", "click[a000000003]", "click[black]", "click[small]"):
        pair.play(action)
    text = pair.game.text()
    assert text.startswith("You have clicked small.\nYou have clicked black.\nInstruction:\n")
    assert "  [clicked button] black [clicked button_]\n" in text
    pair.play("click[< prev]")
    assert "\n\n[clicked button] A000000003 [clicked button_]\n" in pair.game.text()
    assert "[clicked button] A000000004" not in pair.game.text()


def test_the_page_after_a_purchase_shows_the_parts_of_the_score_on_request():
    environment = shop_environment(show_score=True)
    game = environment.game(environment.task(ResetSpec(index=0)))
    for action in ("search[home]", "click[a000000003]", "click[buy now]"):
        game.play(action)
    assert game.purchase is not None
    assert "'r_type': " in game.text()
    assert f"[SEP] {game.purchase.total} [SEP] Reward Details [SEP] {{'" in game.text()
