"""A visit to the shop as a text game: find and buy the product that the instruction describes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal, Self

from arlarena.environment.hashing import digest
from arlarena.environment.replies import reply
from arlarena.environment.text_game import TextGame
from arlarena.environments.webshop.catalogue.protocol import Catalogue
from arlarena.environments.webshop.shop.actions import ShopAction, parse_action, search
from arlarena.environments.webshop.shop.goal import Goal
from arlarena.environments.webshop.shop.nodes import Form
from arlarena.environments.webshop.shop.pages import Page, Pages, instruction_texts
from arlarena.environments.webshop.shop.product import Product
from arlarena.environments.webshop.shop.reward import PurchaseScore, score_purchase
from arlarena.environments.webshop.shop.session import SEARCH, START, ShopState, after_click, after_search

SUCCESS_REWARD = 10.0  # as in the paper; there are no other rewards


@dataclass(frozen=True, slots=True)
class Shop:
    """The catalogue, the pages and the options of an environment. All visits share these objects.

    Attributes:
        form: the form of observations.
        show_score: whether the observation after a purchase shows the parts of the score.
        expert_think: the thought in the expert's replies.
    """

    catalogue: Catalogue
    pages: Pages
    form: Form = "text"
    show_score: bool = False
    expert_think: Literal["plan", "none"] = "plan"


class ShopGame(TextGame):
    """One visit, with its goal.

    Attributes:
        page: the current page.
        place: the current state of the visit.
        purchase: the score of the purchase with its parts; None before the purchase. The pages for people show this
            score.
    """

    def __init__(self, shop: Shop, goal: Goal) -> None:
        self.shop, self.goal = shop, goal
        self.wanted: Product = shop.catalogue.product(goal.product)
        self.task, self.kind, self.score = goal.instruction, self.wanted.category, 0.0
        self.content_key = digest(json.dumps([self.wanted.asin, goal.options]))
        self.purchase: PurchaseScore | None = None
        self._instructions = instruction_texts(shop.form, goal.instruction)
        self._parsed: tuple[str, ShopAction | None] | None = None
        self._enter(START)

    def text(self) -> str:
        """Return the page's text, as WebShop's code writes it."""
        return self._text

    def prompt_text(self) -> str:
        """Return the page's text without the instruction."""
        return self.page.before + self.page.after

    def state(self) -> str:
        """Return the state of the visit. Only pages in the form `rich` show which products were visited."""
        return self.place.canonical(visited=self.shop.form == "rich")

    @property
    def over(self) -> bool:
        """Whether a product was bought."""
        return self.purchase is not None

    def accepts(self, action: str) -> bool:
        """Return whether `action` is a search, or a valid click on the current page."""
        return self._valid(self._parse(action))

    def examples(self) -> Sequence[str]:
        """Return the valid clicks of the current page. On the search page, which has no clicks, return the search for
        the instruction. Searches for other texts are also valid on every page.
        """
        return self.page.clicks or ([] if self.over else [search(self.goal.instruction)])

    def offered(self) -> str:
        """Return the possible actions for the prompt. On the search page, this is `search[<your query>]`. On other
        pages, it is the valid clicks, one per line.
        """
        return self.page.offered

    def play(self, action: str | None) -> float:
        """Play an action and return the reward. An invalid action changes nothing."""
        parsed = None if action is None else self._parse(action)
        if parsed is None or not self._valid(parsed) or self.over:
            return 0.0
        if parsed.kind == "search":
            self._enter(after_search(self.shop.catalogue, self.place, parsed.argument))
            return 0.0
        place = after_click(self.place, parsed.argument, self.page.clickables[parsed.argument])
        if place.page != "done":
            self._enter(place)
            return 0.0
        self._buy(place)
        return SUCCESS_REWARD if self.solved else 0.0

    def copy(self) -> Self:
        """Return an independent game. Both games share the immutable state."""
        return copy(self)

    def plan(self) -> list[str]:
        """Return the expert's replies from the current state to the purchase.

        Raises:
            ExpertUnavailable: the expert finds no product that scores 1.
        """
        from arlarena.environments.webshop.expert import moves  # not at the top, because `expert` imports this module

        think = self.shop.expert_think == "plan"
        return [reply(thought if think else "", action) for thought, action in moves(self)]

    def _parse(self, action: str) -> ShopAction | None:
        """Return the parsed action. The last result is stored, because an episode parses each action twice."""
        if self._parsed is None or self._parsed[0] != action:
            self._parsed = action, parse_action(action)
        return self._parsed[1]

    def _valid(self, action: ShopAction | None) -> bool:
        if action is None or action.kind == "search":
            return action is not None
        return action.argument != SEARCH and action.argument in self.page.clickables

    def _enter(self, place: ShopState, page: Page | None = None) -> None:
        self.place, self.page = place, page or self.shop.pages.page(place)
        self._text = self.page.text(self._instructions)

    def _buy(self, place: ShopState) -> None:
        assert place.product is not None
        bought = self.shop.catalogue.product(place.product)
        self.purchase = score_purchase(self.goal, self.wanted, bought, place.options.values())
        self.score = self.purchase.total
        details = self.purchase.details() if self.shop.show_score else None
        self._enter(place, self.shop.pages.receipt(place, self.score, details))
