"""The expert: a program that buys a product with the score 1. The expert uses only searches and clicks.

The expert knows the goal and the goal's product. It compares three plans: to buy the product of the current page, to
buy a product of the last search, and to search again. The expert takes the plan with the fewest actions. A search uses
words of the instruction. If these words do not find a product that scores 1, the expert searches for the title of the
goal's product. The expert may buy any product that scores 1, not only the goal's product.

Each action makes the shortest plan one action shorter, and the choice between equally short plans is fixed. So the plan
that the expert makes on the next page is the rest of the earlier plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from arlarena.environment.protocols import ExpertUnavailable
from arlarena.environments.webshop.shop.actions import click, is_clickable, parse_action, search
from arlarena.environments.webshop.shop.goal import Goal
from arlarena.environments.webshop.shop.pages import PAGE_SIZE
from arlarena.environments.webshop.shop.product import Product
from arlarena.environments.webshop.shop.reward import (
    matched_attributes,
    matched_options,
    score_purchase,
    type_score,
)
from arlarena.environments.webshop.shop.session import BACK, BUY, NEXT, PREVIOUS, SUB_PAGES, ShopState
from arlarena.environments.webshop.shop_game import ShopGame

MAX_MOVES = 100  # maximum number of actions; five pages of results and the options of a product need fewer
MAX_CHOICES = 2_000  # maximum number of combinations of option values that are tried for one product
MIN_SEARCH_COST = 3  # minimum number of actions of a plan that begins with a search: search, open, buy
# The thoughts in the expert's replies. After CHOOSE, the thought names the value that the expert chooses.
FIND, LOOK_FURTHER, LOOK_AT_RESULTS = "find the product", "look further", "look at the results"
LOOK_AT_PRODUCT, CHOOSE, BUY_IT = "look at the product", "choose ", "buy the product"
# One thought for each place on a page of results.
OPEN = tuple(
    f"open the {place} product" for place in ("1st", "2nd", "3rd", *(f"{number}th" for number in range(4, 11)))
)
THOUGHTS = (FIND, LOOK_FURTHER, LOOK_AT_RESULTS, *OPEN, LOOK_AT_PRODUCT, CHOOSE, BUY_IT)
# Words of instructions that say nothing about the product.
_COMMON = """
a about after also am an and any are as at be brother but buy by can color colored come comes could dollars find
for from get give had has have help i i'd i'll i'm id im in is it its like looking made me my need needs of on
one ones or our pick please preferably price purchase recommend same searching shall shopping should show sister
size sized some something take that that's the them there's they this those to under want we we're where which
whose will with would you your
"""
COMMON_WORDS = frozenset(_COMMON.split())
_PRICE = re.compile(r",? and price (?:lower|less) than [\d.,]+ dollars.*$")
_WORD = re.compile(r"[^\W_]+(?:[.'\u2019-][^\W_]+)*")


class Step(NamedTuple):
    """The first action of a plan. `cost`: the number of actions of the complete plan."""

    cost: int
    thought: str
    action: str


class FoundProduct(NamedTuple):
    """A product of a search that scores 1.

    Attributes:
        page: the number of the results page, from 1.
        place: the product's place on this page, from 0.
        number: the product's number.
        cost: the number of actions from the product's page to the purchase.
    """

    page: int
    place: int
    number: int
    cost: int


def moves(game: ShopGame) -> Iterator[tuple[str, str]]:
    """Yield (thought, action) from the current state to the purchase. The actions are played on a copy of the game.

    Raises:
        ExpertUnavailable: no search finds a product that scores 1.
    """
    game, expert = game.copy(), ShopExpert(game)
    for _ in range(MAX_MOVES):
        if game.over:
            return
        step = expert.choose(game.place)
        yield step.thought, step.action
        game.play(step.action)
    raise ExpertUnavailable(f"the expert has bought nothing after {MAX_MOVES} steps")


class ShopExpert:
    """The expert for one goal."""

    def __init__(self, game: ShopGame) -> None:
        self._catalogue, self._goal, self._wanted = game.shop.catalogue, game.goal, game.wanted
        self._clicks: dict[int, list[str] | None] = {}
        self._search: tuple[Step | None] | None = None  # the result of `_best_search`; None before the first use

    def choose(self, place: ShopState) -> Step:
        """Return the first step of the shortest plan from this state.

        Raises:
            ExpertUnavailable: no search finds a product that scores 1.
        """
        steps = [step for step in (self._stay(place), self._open(place)) if step is not None]
        best = min(steps, key=lambda step: step.cost, default=None)
        if best is not None and best.cost <= MIN_SEARCH_COST:
            return best
        if self._search is None:
            self._search = (self._best_search(),)
        by_search = self._search[0]
        if by_search is None or (best is not None and best.cost <= by_search.cost):
            by_search = best
        if by_search is None:
            raise ExpertUnavailable(self._reason())
        return by_search

    def _stay(self, place: ShopState) -> Step | None:
        """Return the next step of the plan that buys the product of the current page. Return None if the page has no
        product, or if the product cannot score 1.
        """
        if place.product is None:
            return None
        clicks = winning_clicks(self._goal, self._wanted, self._catalogue.product(place.product), place.options)
        if clicks is None:
            return None
        if place.page == "sub_page":
            return Step(len(clicks) + 2, LOOK_AT_PRODUCT, click(PREVIOUS))
        if clicks:
            return Step(len(clicks) + 1, CHOOSE + clicks[0], click(clicks[0]))
        return Step(1, BUY_IT, click(BUY))

    def _open(self, place: ShopState) -> Step | None:
        """Return the next step of the plan that buys the nearest product of the last search (see `_nearest`). Return
        None if no product of this search scores 1.
        """
        found = self._nearest(place.hits, place.number) if place.page != "search" else None
        if found is None:
            return None
        pages = abs(found.page - place.number)
        if place.page != "results":
            away = 2 if place.page == "sub_page" else 1
            return Step(away + pages + 1 + found.cost, LOOK_AT_RESULTS, click(PREVIOUS))
        if pages:
            return Step(pages + 1 + found.cost, LOOK_FURTHER, click(NEXT if found.page > place.number else PREVIOUS))
        asin = self._catalogue.product(found.number).asin.lower()
        return Step(1 + found.cost, OPEN[found.place], click(asin))

    def _nearest(self, hits: Sequence[int], page: int) -> FoundProduct | None:
        """Return the product in `hits` with the shortest plan from the results page number `page`. If several plans are
        equally short, return the first of these products. Return None if no product scores 1.
        """
        best: tuple[int, FoundProduct] | None = None
        for place, number in enumerate(hits):
            clicks = self._fresh_clicks(number)
            if clicks is None:
                continue
            found = FoundProduct(place // PAGE_SIZE + 1, place % PAGE_SIZE, number, len(clicks) + 1)
            cost = abs(found.page - page) + found.cost
            if best is None or cost < best[0]:
                best = cost, found
        return None if best is None else best[1]

    def _fresh_clicks(self, number: int) -> list[str] | None:
        """Return the option values to click after a product is opened. Return None if the product cannot score 1."""
        if number not in self._clicks:
            product = self._catalogue.product(number)
            opened = is_clickable(product.asin.lower()) and product.asin.lower() not in (BACK, NEXT, PREVIOUS)
            self._clicks[number] = winning_clicks(self._goal, self._wanted, product, {}) if opened else None
        return self._clicks[number]

    def _best_search(self) -> Step | None:
        """Return the search that begins the shortest plan. Return None if no search finds a product that scores 1. If
        the first results page of a query has such a product, no further query is tried.
        """
        best: Step | None = None
        for words in queries(self._goal.instruction, self._goal.options, self._wanted.title):
            action = parse_action(search(words))
            assert action is not None
            found = self._nearest(self._catalogue.search(action.argument), 1)
            if found is None:
                continue
            step = Step(1 + found.page + found.cost, FIND, search(words))
            if best is None or step.cost < best.cost:
                best = step
            if found.page == 1:
                break
        return best

    def _reason(self) -> str:
        """Return the reason why the expert finds no product that scores 1."""
        goal, wanted = self._goal, self._wanted
        if winning_clicks(goal, wanted, wanted, {}) is not None:
            return f"no search finds {wanted.asin} or another product that scores 1"
        values = [value for values in wanted.options.values() for value in values]
        score = score_purchase(goal, wanted, wanted, values)
        return (
            f"no product that scores 1 is found, and {wanted.asin} does not score 1 for its own goal: type factor "
            f"{score.type.factor}, {score.attributes_matched} of {score.attributes} attributes, at most "
            f"{score.options_matched} of {score.options} options at once, price {'' if score.price_ok else 'not '}ok"
        )


def queries(instruction: str, options: Sequence[tuple[str, str] | str], title: str) -> list[str]:
    """Return the searches that the expert tries, in order. The first has the instruction's words without the words of
    the goal's options. The second has all words of the instruction. The third is the title of the goal's product. The
    first two do not contain COMMON_WORDS and the price limit.
    """
    said = [word for word in _WORD.findall(_PRICE.sub("", instruction)) if word.lower() not in COMMON_WORDS]
    asked = {word for option in options for part in _parts(option) for word in _WORD.findall(part.lower())}
    without = [word for word in said if word.lower() not in asked]
    found = dict.fromkeys((" ".join(without), " ".join(said), " ".join(title.translate(_NO_BRACKETS).split())))
    return [words for words in found if words]


def winning_clicks(goal: Goal, wanted: Product, product: Product, chosen: Mapping[str, str]) -> list[str] | None:
    """Return the option values to click so that buying `product` scores 1. Return None if the product cannot score 1.

    `chosen`: the values that are already chosen, by axis (the kind of an option, such as color).
    """
    if product.price > goal.price_upper or type_score(wanted, product).factor < 1.0:
        return None
    if matched_attributes(goal.attributes, product) < len(goal.attributes):
        return None
    clickable = {
        value: axis.lower()
        for axis, values in product.options.items()
        for value in values
        if is_clickable(value) and value not in (BACK, PREVIOUS, BUY, *SUB_PAGES)
    }
    matching = [_matching(option, clickable) for option in goal.options]
    return _Chooser(goal, matching).choose(dict(chosen))


def _matching(option: tuple[str, str] | str, clickable: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return a pair (axis, value) for each value that matches an option of a goal. Values that equal the option come
    first.
    """
    found = [(axis, value) for value, axis in clickable.items() if matched_options([option], [value])]
    exact = ("", option) if isinstance(option, str) else (option[0].lower(), option[1])
    return sorted(found, key=lambda pair: (pair != exact, pair[1] != exact[1]))


class _Chooser:
    """Chooses values so that all options of a goal match, with at most one value for each axis. `matching`: for each
    option of the goal, the pairs (axis, value) that match the option.
    """

    def __init__(self, goal: Goal, matching: list[list[tuple[str, str]]]) -> None:
        self._goal, self._matching, self._tried = goal, matching, 0

    def choose(self, chosen: dict[str, str]) -> list[str] | None:
        """Return the clicks, in the order of the goal's options. Return None if no choice is found in `MAX_CHOICES`
        tries.
        """
        return self._from(0, chosen, frozenset(), [])

    def _from(
        self, position: int, chosen: dict[str, str], locked: frozenset[str], clicks: list[str]
    ) -> list[str] | None:
        if position == len(self._matching):
            return clicks
        self._tried += 1
        if self._tried > MAX_CHOICES:
            return None
        option = self._goal.options[position]
        for axis, value in chosen.items():
            if matched_options([option], [value]):
                return self._from(position + 1, chosen, locked | {axis}, clicks)
        for axis, value in self._matching[position]:
            if axis in locked:
                continue
            found = self._from(position + 1, {**chosen, axis: value}, locked | {axis}, [*clicks, value])
            if found is not None:
                return found
        return None


def _parts(option: tuple[str, str] | str) -> tuple[str, ...]:
    return (option,) if isinstance(option, str) else option


_NO_BRACKETS = str.maketrans({"[": " ", "]": " ", "\n": " "})
