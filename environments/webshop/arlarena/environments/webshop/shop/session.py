"""The state of a visit to the shop, and its changes by searches and clicks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

import msgspec

from arlarena.environments.webshop.catalogue.protocol import Catalogue

PageKind = Literal["search", "results", "item", "sub_page", "done"]

# Names of buttons in lower case, as clicks name them.
SEARCH, BACK, PREVIOUS, NEXT, BUY = "search", "back to search", "< prev", "next >", "buy now"
DESCRIPTION, FEATURES, REVIEWS, ATTRIBUTES = "description", "features", "reviews", "attributes"
SUB_PAGES = (DESCRIPTION, FEATURES, REVIEWS, ATTRIBUTES)


class Clickable(msgspec.Struct, frozen=True, gc=False):
    """A clickable of a page: an option of the axis `axis`, a link to the product with number `product`, or a button."""

    axis: str | None = None
    product: int | None = None


BUTTON = Clickable()


class ShopState(msgspec.Struct, frozen=True):
    """The state of a visit. It does not contain the goal or the number of steps.

    Attributes:
        page: the kind of the current page.
        keywords: the text of the last search, "" on the search page.
        number: the page number of the results, from 1; 0 on the search page.
        product: number of the current page's product; None if the page has no product.
        options: the chosen value of each axis (kind of option, such as color), in the order of the first choices.
        sub_page: the name of the current sub-page, or "".
        visited: numbers of the products that were opened since the last visit of the search page.
        hits: numbers of the products that the last search found, best first.
    """

    page: PageKind = "search"
    keywords: str = ""
    number: int = 0
    product: int | None = None
    options: Mapping[str, str] = {}
    sub_page: str = ""
    visited: frozenset[int] = frozenset()
    hits: tuple[int, ...] = ()

    def canonical(self, visited: bool) -> str:
        """Return the state as text. States with equal pages and equal scores give equal texts.

        `visited`: whether pages show which products were visited.
        """
        seen = sorted(self.visited) if visited else ()
        parts = [self.page, self.keywords, self.number, self.product, sorted(self.options.items()), self.sub_page, seen]
        try:
            return msgspec.json.encode(parts).decode()
        except UnicodeEncodeError:  # the text of the search has an unpaired surrogate
            return json.dumps(parts)


START = ShopState()


def after_search(catalogue: Catalogue, state: ShopState, words: str) -> ShopState:
    """Return the state after a search: the first page of its results. A search is possible on every page."""
    return ShopState("results", words, 1, visited=state.visited, hits=tuple(catalogue.search(words)))


def after_click(state: ShopState, name: str, clickable: Clickable) -> ShopState:
    """Return the state after a click on a clickable of the current page.

    As in WebShop's code, the name decides first: if an option has the name of a button of its page, the click acts as a
    click on the button.
    """
    if name == BUY:
        return msgspec.structs.replace(state, page="done", sub_page="")
    if name == BACK:
        return START
    if state.page == "results" and name in (NEXT, PREVIOUS):
        return _results(state, state.number + (1 if name == NEXT else -1))
    if name == PREVIOUS:
        return _results(state, state.number) if state.page == "item" else _item(state)
    if name in SUB_PAGES:
        return msgspec.structs.replace(state, page="sub_page", sub_page=name)
    if clickable.product is not None:
        visited = state.visited | {clickable.product}
        return msgspec.structs.replace(state, page="item", product=clickable.product, options={}, visited=visited)
    return _item(state) if clickable.axis is None else _item(state, {**state.options, clickable.axis: name})


def _results(state: ShopState, number: int) -> ShopState:
    """Return a page of the results of the last search. This clears the product and its options."""
    return ShopState("results", state.keywords, number, visited=state.visited, hits=state.hits)


def _item(state: ShopState, options: Mapping[str, str] | None = None) -> ShopState:
    """Return the page of the current product. `options`: the chosen options; None if they do not change."""
    chosen = state.options if options is None else options
    return msgspec.structs.replace(state, page="item", options=chosen, sub_page="")
