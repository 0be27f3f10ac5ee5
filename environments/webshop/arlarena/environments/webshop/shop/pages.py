"""The pages of the shop, as observations with their clickables. "The original" is WebShop's code.

Texts that depend only on a product are cached. So a step that is not a search only joins a few texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pprint import pformat

import msgspec

from arlarena.environments.webshop.catalogue.protocol import Catalogue
from arlarena.environments.webshop.shop.actions import clicks_on
from arlarena.environments.webshop.shop.nodes import Form, Node, finished, fragment, nodes
from arlarena.environments.webshop.shop.product import Product
from arlarena.environments.webshop.shop.session import (
    ATTRIBUTES,
    BACK,
    BUTTON,
    BUY,
    DESCRIPTION,
    FEATURES,
    NEXT,
    PREVIOUS,
    REVIEWS,
    SEARCH,
    Clickable,
    ShopState,
)

PAGE_SIZE = 10  # products on a page of results
CACHED_CARDS = 16_384  # about 0.6 KB each
CACHED_ITEMS = 4_096  # about 3.5 KB each
CACHED_SUB_PAGES = 8_192  # about 1.1 KB each
CACHED_RESULTS = 4_096  # about 4 KB each; useful because `< prev` shows an earlier page again
# The texts above the instruction: on the search page, on the other pages, and on a page without the instruction.
INSTRUCTION_LABELS = ("Instruction: ", "Instruction:", "")
SEARCH_ACTION = "search[<your query>]"  # how a prompt offers a search
# The names of buttons as pages write them. Clicks name the buttons in lower case.
LABELS = {name: name.title() for name in (SEARCH, PREVIOUS, NEXT, BUY, DESCRIPTION, FEATURES, REVIEWS, ATTRIBUTES)} | {
    BACK: "Back to Search"
}


class Page(msgspec.Struct, frozen=True):
    """A page. An observation is `before`, then the instruction under `label`, then `after`.

    Attributes:
        before, after: the texts before and after the instruction. Together they are the page without the instruction.
        label: the text above the instruction; "" if the page does not show the instruction.
        clickables: the clickables by name, in the order of WebShop's code.
        clicks: the valid clicks as actions, in the same order; without the button of the search form.
        offered: the valid clicks as text, one per line; on the search page, the form of a search.
    """

    before: str
    after: str
    label: str
    clickables: Mapping[str, Clickable]
    clicks: tuple[str, ...]
    offered: str

    def text(self, instructions: Mapping[str, str]) -> str:
        """Return the observation. `instructions`: see `instruction_texts`."""
        return self.before + instructions[self.label] + self.after


def instruction_texts(form: Form, instruction: str) -> dict[str, str]:
    """Return {label: text} for each of `INSTRUCTION_LABELS`. The text has the label and the instruction, or is ""."""
    return {label: fragment(form, nodes("text", label, instruction) if label else []) for label in INSTRUCTION_LABELS}


class Card(msgspec.Struct, frozen=True):
    """A product in the results. `name`: the name of its clickable. `text`: its text. `visited_text`: its text if the
    product was visited before.
    """

    name: str
    clickable: Clickable
    text: str
    visited_text: str


class ItemPage(msgspec.Struct, frozen=True):
    """The page of a product. `page`: the page without clicked options. `nodes`: the nodes from which the page with
    clicked options is made, in the form `rich`.
    """

    page: Page
    nodes: list[Node]
    options: list[str]  # texts of the option nodes, in order


class Pages:
    """Renders the pages of a catalogue in one form. Thread-safe."""

    def __init__(self, catalogue: Catalogue, form: Form, show_attributes: bool = False) -> None:
        self._catalogue, self._form, self._show_attributes = catalogue, form, show_attributes
        self._card = lru_cache(CACHED_CARDS)(self._make_card)
        self._item = lru_cache(CACHED_ITEMS)(self._make_item)
        self._sub_page = lru_cache(CACHED_SUB_PAGES)(self._make_sub_page)
        self._results = lru_cache(CACHED_RESULTS)(self._make_results)
        after = self._complete([("button", LABELS[SEARCH])])
        title = fragment(form, [("text", "WebShop")])
        self._search_page = Page(title, after, "Instruction: ", {SEARCH: BUTTON}, (), SEARCH_ACTION)

    def page(self, state: ShopState) -> Page:
        """Return the page of a state; for the page after a purchase, see `receipt`."""
        if state.page == "results":
            shown = state.hits[(state.number - 1) * PAGE_SIZE : state.number * PAGE_SIZE]
            marked = state.visited.intersection(shown) if self._form == "rich" else frozenset[int]()
            return self._results(shown, state.number, len(state.hits), marked)
        if state.product is None:
            return self._search_page
        if state.page == "sub_page":
            return self._sub_page(state.product, state.sub_page)
        return self._with_clicked(state, self._item(state.product))

    def receipt(self, state: ShopState, score: float, details: Mapping[str, float | bool] | None) -> Page:
        """Return the page after the purchase of `state`.

        The page has the same content as WebShop's page in a text environment: fields that WebShop's code does not fill
        are empty or "None". `details`: the parts of the score. If None, the page shows no parts.
        """
        assert state.product is not None
        chosen = json.dumps(dict(state.options), sort_keys=True)
        for character in "<>&'":
            chosen = chosen.replace(character, f"\\u{ord(character):04x}")
        texts = [
            *("Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)"),
            *("Purchased", "asin", self._catalogue.product(state.product).asin, "options", chosen),
            *("attrs", "None", "category", "None", "query", "None", "product category", "None"),
            *("Target", "asin", "options", "attrs", "price upper", "instuction text", "category"),
            *("product category", "query", "Goal ", "None", "Reward"),
            *("Your score (min 0.0, max 1.0)", str(score)),
            *("Reward Details ", pformat(details and dict(details))),
        ]
        return _page("", self._complete([("text", text) for text in texts]), "", {})

    def _complete(self, parts: list[Node], clicked: frozenset[str] = frozenset()) -> str:
        return finished(self._form, fragment(self._form, parts, clicked))

    def _make_results(self, shown: tuple[int, ...], page: int, total: int, visited: frozenset[int]) -> Page:
        """Return a page of results. A page after the last page shows no products."""
        names = [BACK, PREVIOUS, NEXT] if page > 1 else [BACK, NEXT]
        buttons: list[Node] = [("button", LABELS[name]) for name in names]
        head: list[Node] = [buttons[0], ("text", f"Page {page} (Total results: {total})"), *buttons[1:]]
        cards = [self._card(number) for number in shown]
        body = [card.visited_text if card.clickable.product in visited else card.text for card in cards]
        after = finished(self._form, fragment(self._form, head) + "".join(body))
        clickables = dict.fromkeys(names, BUTTON) | {card.name: card.clickable for card in cards}
        return _page("", after, "Instruction:", clickables)

    def _make_card(self, number: int) -> Card:
        shown = self._catalogue.listing(number)
        parts = [*nodes("link", shown.asin), *nodes("text", shown.title, shown.price_text)]
        text = fragment(self._form, parts)
        visited = text if self._form == "text" else fragment(self._form, parts, (shown.asin,))
        return Card(shown.asin.lower(), Clickable(product=number), text, visited)

    def _make_item(self, number: int) -> ItemPage:
        product = self._catalogue.product(number)
        parts: list[Node] = [("button", LABELS[BACK]), ("button", LABELS[PREVIOUS])]
        options: list[Node] = []
        for axis, values in product.options.items():
            labels = nodes("option", *values)
            options += labels
            parts += [*nodes("text", axis), *labels]
        parts += nodes("text", product.title, f"Price: {product.price_text}", "Rating: N.A.")
        names = [DESCRIPTION, FEATURES, REVIEWS, *([ATTRIBUTES] if self._show_attributes else []), BUY]
        parts += [("button", LABELS[name]) for name in names]
        clickables = dict.fromkeys([BACK, PREVIOUS, *names], BUTTON)
        for axis, values in product.options.items():
            clickables |= dict.fromkeys(values, Clickable(axis=axis.lower()))
        page = _page("", self._complete(parts), "Instruction:", clickables)
        if self._form == "text":  # this form marks nothing as clicked
            return ItemPage(page, [], [])
        return ItemPage(page, parts, [text for _, text in options])

    def _with_clicked(self, state: ShopState, item: ItemPage) -> Page:
        """Return the page of a product with its clicked options marked, in the form `rich`.

        As in WebShop's code, an option is clicked if its text in quotes occurs in the page's address, which ends with
        the chosen options as JSON. So a value with quotes or with characters beyond ASCII is never marked.
        """
        if self._form == "text" or not (state.options or '"' in state.keywords):
            return item.page
        address = f"{state.keywords.replace(' ', '+')}/{state.number}/{json.dumps(dict(state.options))}"
        clicked = [text for text in item.options if f'"{text}"' in address]
        if not clicked:
            return item.page
        before = "".join([f"You have clicked {text}.\n" for text in reversed(clicked)])
        after = self._complete(item.nodes, frozenset(clicked))
        return msgspec.structs.replace(item.page, before=before, after=after)

    def _make_sub_page(self, number: int, name: str) -> Page:
        product = self._catalogue.product(number)
        parts: list[Node] = [("button", LABELS[BACK]), ("button", LABELS[PREVIOUS])]
        parts += nodes("text", *_contents(product, name))
        clickables = dict.fromkeys((BACK, PREVIOUS), BUTTON)
        return _page("", self._complete(parts), "Instruction:", clickables)


def _contents(product: Product, name: str) -> list[str]:
    """Return the texts of a sub-page. There are no reviews, because WebShop's files have none."""
    if name == DESCRIPTION:
        return [product.description]
    if name == FEATURES:
        return [f" {bullet}" for bullet in product.bullets]
    if name == REVIEWS:
        return []
    attributes = [f" {attribute}" for attribute in product.attributes]
    return [*attributes, product.category, product.query, product.product_category]


def _page(before: str, after: str, label: str, clickables: Mapping[str, Clickable]) -> Page:
    """Return a page without a search form."""
    clicks = tuple(clicks_on([name for name in clickables if name != SEARCH]))
    return Page(before, after, label, clickables, clicks, "\n".join(clicks))
