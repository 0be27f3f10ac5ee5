"""The pages of the shop for people. A page shows the texts and the clickables of the observation, and pictures."""

from __future__ import annotations

from arlarena.environments.webshop.human.layout import Showing, action_button, brand, document, shop_document
from arlarena.environments.webshop.human.markup import Content, Html, element, join
from arlarena.environments.webshop.human.pictures import picture
from arlarena.environments.webshop.human.score_view import score_page
from arlarena.environments.webshop.shop.pages import PAGE_SIZE
from arlarena.environments.webshop.shop.product import Product
from arlarena.environments.webshop.shop.session import (
    ATTRIBUTES,
    BACK,
    BUY,
    DESCRIPTION,
    FEATURES,
    NEXT,
    PREVIOUS,
    REVIEWS,
    ShopState,
)

TITLE_CHARS = 300  # maximum characters of a title in the results and in the browser's title bar


def shop_page(showing: Showing) -> str:
    """Return the current page of an episode; after its end, the page with the score."""
    if showing.visit.done:
        return score_page(showing)
    views = {"results": _results_page, "item": _item_page, "sub_page": _sub_page}
    return views.get(showing.visit.game.place.page, _search_page)(showing)


def start_page(split: str, index: int, size: int, *, token: bool, note: str = "") -> str:
    """Return the page before the first episode. `token`: whether to ask for the server's token."""
    fields: list[Content] = [
        _field("Task", "number", "index", value=index, min=0, max=size - 1, hint=f"0 to {size - 1} of {split}")
    ]
    if token:
        fields.append(
            _field("Access token", "password", "token", autocomplete="off", hint="from the operator of this shop")
        )
    form = element(
        "form", *fields, element("button", "Start shopping", class_="primary"), method="post", action="/start"
    )
    rules = element(
        "p",
        "You get a task: a text that describes a product. Find the product with the search, choose its options, and "
        "buy it. Every click and every search is one action, and the number of actions is limited. At the end you see "
        "your score. Finished episodes are recorded: what you saw, what you did, and when.",
    )
    header = element("header", element("div", brand(), class_="inner"))
    shown = element("p", note, class_="note", role="status") if note else None
    body = element("section", element("h1", "Welcome to the shop"), rules, form, class_="panel start")
    return document("WebShop", header, element("main", shown, body))


def message_page(title: str, message: str) -> str:
    """Return a page with an error message."""
    header = element("header", element("div", brand(), class_="inner"))
    return document(
        title, header, element("main", element("section", element("h1", title), element("p", message), class_="panel"))
    )


def _field(label: str, type_: str, name: str, *, hint: str, **attributes: str | int) -> Html:
    box = element("input", type=type_, name=name, required=True, **attributes)
    return element("label", element("span", label), box, element("small", hint))


def _search_page(showing: Showing) -> str:
    hint = "Use the search box above: name the product and what matters about it."
    return shop_document(
        showing,
        "Search",
        element("section", element("h1", "What are you looking for?"), element("p", hint), class_="panel hero"),
    )


def _results_page(showing: Showing) -> str:
    place = showing.visit.game.place
    shown = place.hits[(place.number - 1) * PAGE_SIZE : place.number * PAGE_SIZE]
    pages = f"Page {place.number} of {max(1, -(-len(place.hits) // PAGE_SIZE))}, {len(place.hits)} results for "
    title = element("h1", pages, element("q", place.keywords))
    empty = "There is nothing on this page." if place.hits else "No product has any of these words."
    body = (
        element("ol", *(_card(showing, place, number) for number in shown), class_="cards")
        if shown
        else element("section", element("p", empty), class_="panel")
    )
    return shop_document(
        showing, "Results", _bar(showing, title), body, element("nav", *_page_buttons(showing), class_="bar end")
    )


def _card(showing: Showing, place: ShopState, number: int) -> Html:
    product = showing.visit.game.shop.catalogue.product(number)
    seen = element("span", "viewed", class_="tag") if number in place.visited else None
    title = product.title if len(product.title) <= TITLE_CHARS else f"{product.title[:TITLE_CHARS]}…"
    button = action_button(
        showing,
        product.asin.lower(),
        element("span", picture(product, remote=showing.remote), class_="picture"),
        element(
            "span",
            element("span", title, class_="title"),
            element("span", product.price_text, class_="price"),
            element("span", product.asin, class_="asin"),
            seen,
            class_="about",
        ),
        class_="card",
    )
    return element("li", button)


def _item_page(showing: Showing) -> str:
    product, place = _product(showing), showing.visit.game.place
    details = element(
        "div",
        element("h1", product.title),
        element("p", product.price_text, class_="price"),
        element("p", f"Rating: N.A. · {product.asin}", class_="asin"),
        *(_axis(showing, axis, values) for axis, values in product.options.items()),
        _chosen(product, place),
        action_button(showing, BUY, "Buy now", class_="primary buy"),
        _tabs(showing),
        class_="details",
    )
    shown = element("div", picture(product, place.options.values(), remote=showing.remote), class_="picture large")
    return shop_document(
        showing, product.title[:TITLE_CHARS], _bar(showing), element("article", shown, details, class_="item panel")
    )


def _axis(showing: Showing, axis: str, values: list[str]) -> Html:
    """Return the buttons of an axis of options."""
    chosen = showing.visit.game.place.options.get(axis.lower())
    buttons = [
        action_button(
            showing, value, value or "(no name)", class_="option", aria_pressed="true" if value == chosen else "false"
        )
        for value in values
    ]
    legend = element("legend", axis, element("b", f" {chosen}") if chosen is not None else None)
    return element("fieldset", legend, *buttons)


def _chosen(product: Product, place: ShopState) -> Html | None:
    """Return a hint that names the axes without a chosen value. Return None if every axis has a chosen value."""
    missing = [axis for axis in product.options if axis.lower() not in place.options]
    return element("p", f"Not chosen yet: {', '.join(missing)}", class_="hint") if missing else None


def _tabs(showing: Showing) -> Html:
    labels = {DESCRIPTION: "Description", FEATURES: "Features", REVIEWS: "Reviews", ATTRIBUTES: "Attributes"}
    return element("nav", *(action_button(showing, name, label) for name, label in labels.items()), class_="tabs")


def _sub_page(showing: Showing) -> str:
    product, name = _product(showing), showing.visit.game.place.sub_page
    heading = element("h1", name.title())
    small = element(
        "div", picture(product, showing.visit.game.place.options.values(), remote=showing.remote), class_="picture"
    )
    body = element(
        "article", small, element("div", heading, _contents(product, name), class_="details"), class_="sub panel"
    )
    return shop_document(showing, name.title(), _bar(showing), body)


def _contents(product: Product, name: str) -> Html:
    if name == DESCRIPTION:
        return element("p", product.description.strip() or "This product has no description.")
    if name == FEATURES:
        return _list(product.bullets, "This product has no list of features.")
    if name == REVIEWS:
        return element("p", "There are no reviews.")
    facts = [f"Category: {product.category}", f"Query: {product.query}", f"Path: {product.product_category}"]
    return join(_list(product.attributes, "No attributes."), _list(facts, ""))


def _list(items: list[str], empty: str) -> Html:
    return element("ul", *(element("li", item) for item in items)) if items else element("p", empty)


def _product(showing: Showing) -> Product:
    game = showing.visit.game
    assert game.place.product is not None
    return game.shop.catalogue.product(game.place.product)


def _bar(showing: Showing, *content: Content) -> Html:
    """Return the row above the page: the buttons for going back, then `content`."""
    page = showing.visit.game.place.page
    buttons = [action_button(showing, BACK, "⌂ New search")]
    if page == "results":
        buttons += _page_buttons(showing)
    else:
        buttons.append(action_button(showing, PREVIOUS, "← Back to results" if page == "item" else "← Back to product"))
    return element("nav", element("div", *buttons, class_="ways"), *content, class_="bar")


def _page_buttons(showing: Showing) -> list[Html | None]:
    previous = action_button(showing, PREVIOUS, "← Previous page")
    return [previous, action_button(showing, NEXT, "Next page →")]
