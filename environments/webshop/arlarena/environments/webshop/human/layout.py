"""The parts that all pages have: head, header with the search box, the instruction, and forms for actions.

All buttons of a page belong to one form. The form contains the numbers of the episode and of the step. Each button
represents a clickable of the observation (a button, an option or a link). The button sends the clickable's position on
the page, not its name, because a browser would change some characters of a name.
"""

from __future__ import annotations

from dataclasses import dataclass

from arlarena.environments.webshop.human.markup import Content, Html, element, join
from arlarena.environments.webshop.human.visit import MAX_SEARCH_CHARS, Visit, can_be_clicked

ACT_FORM = "act"


@dataclass(frozen=True, slots=True)
class Showing:
    """The content of a page. `number`: the number of the person's episode, from 1. `note`: a message above the page, or
    "". `remote`: whether pictures come from other servers.
    """

    visit: Visit
    number: int
    note: str = ""
    remote: bool = False


def document(title: str, *body: Content) -> str:
    """Return a complete HTML document."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("link", rel="stylesheet", href="/style.css"),
    )
    return "<!doctype html>\n" + element("html", head, element("body", *body), lang="en")


def brand() -> Html:
    """Return the name of the shop."""
    return element("span", element("b", "Web"), "Shop", class_="brand")


def shop_document(showing: Showing, title: str, *main: Content) -> str:
    """Return a page of the shop: header, instruction, note, then `main`."""
    game, visit = showing.visit.game, showing.visit
    search = None if visit.done else _search_form(showing)
    header = element("header", element("div", brand(), search, _counter(showing), class_="inner"))
    task = element(
        "section",
        element("div", element("h2", "Your task"), element("p", game.goal.instruction), class_="inner"),
        class_="task",
    )
    note = element("p", showing.note, class_="note", role="status") if showing.note else None
    form = element("form", *_hidden(showing), id=ACT_FORM, method="post", action="/act")
    return document(f"{title} | WebShop", header, task, element("main", form, note, *main))


def action_button(showing: Showing, name: str, *content: Content, **attributes: str | bool | None) -> Html | None:
    """Return the button of a clickable. Return None if the page has no such clickable.

    The button is disabled if no action can name the clickable.
    """
    names = list(showing.visit.game.page.clickables)
    if name not in names:
        return None
    disabled = not can_be_clicked(name)
    value = names.index(name)
    return element("button", *content, form=ACT_FORM, name="click", value=value, disabled=disabled, **attributes)


def next_form(showing: Showing, label: str) -> Html:
    """Return the form with the button that starts the next task."""
    button = element("button", label, class_="primary")
    return element("form", *_hidden(showing), button, method="post", action="/next")


def _hidden(showing: Showing) -> list[Html]:
    return [
        element("input", type="hidden", name="episode", value=showing.number),
        element("input", type="hidden", name="step", value=showing.visit.episode.steps),
    ]


def _search_form(showing: Showing) -> Html:
    box = element(
        "input",
        type="search",
        name="search",
        value=showing.visit.game.place.keywords,
        placeholder="Search for products",
        aria_label="Search for products",
        maxlength=MAX_SEARCH_CHARS,
        required=True,
        autocomplete="off",
    )
    button = element("button", "Search", class_="primary")
    return element("form", *_hidden(showing), box, button, method="post", action="/act", role="search")


def _counter(showing: Showing) -> Html:
    observation = showing.visit.state.observation
    used, horizon = observation.step, observation.step + observation.remaining_steps
    left = f"{used} of {horizon} actions"
    return element("span", left, element("progress", value=used, max=horizon, aria_label=left), class_="counter")


def fact_list(items: list[Html]) -> Html:
    """Return a list of facts, one per line."""
    return element("ul", join(*(element("li", item) for item in items)), class_="facts")
