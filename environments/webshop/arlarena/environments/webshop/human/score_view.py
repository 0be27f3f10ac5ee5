"""The page after an episode. It shows the score, its parts, and which requirements of the task the purchase matches."""

from __future__ import annotations

from arlarena.environments.webshop.human.layout import Showing, fact_list, next_form, shop_document
from arlarena.environments.webshop.human.markup import Html, element, join
from arlarena.environments.webshop.human.pictures import picture
from arlarena.environments.webshop.shop.goal import NO_LIMIT, Goal
from arlarena.environments.webshop.shop.product import Product
from arlarena.environments.webshop.shop.reward import PurchaseScore, matched_attributes, matched_options
from arlarena.proto.text.wording import counted

NEXT_TASK = "Next task →"


def score_page(showing: Showing) -> str:
    """Return the page of a finished episode."""
    visit = showing.visit
    game, steps = visit.game, visit.episode.steps
    score = game.purchase
    total = 0.0 if score is None else score.total
    verdict = "Solved" if game.solved else "Nothing bought" if score is None else "Not quite"
    summary = element(
        "section",
        element("p", verdict, class_="verdict"),
        element("p", element("b", f"{100 * total:.0f}"), " of 100 points", class_="points"),
        element("p", f"Score {total:.4g} after {counted(steps, 'action')}.", class_="asin"),
        next_form(showing, NEXT_TASK),
        class_=f"panel score {'good' if game.solved else 'bad'}",
    )
    if score is None:
        reason = element("p", "All actions were used before a product was bought, so the score is 0.")
        return shop_document(showing, "Score", summary, element("section", reason, class_="panel"))
    assert game.place.product is not None
    bought, options = game.shop.catalogue.product(game.place.product), game.place.options
    parts = element(
        "section",
        element("h2", "Parts of the score"),
        _type_part(score),
        _attributes_part(score, game.goal, bought),
        _options_part(score, game.goal, list(options.values())),
        _price_part(score, game.goal, bought),
        element("p", _formula(score), class_="formula"),
        class_="panel parts",
    )
    receipt = _receipt(showing, bought, dict(options))
    wanted = element("p", f"{game.wanted.title} ({game.wanted.asin}, {game.wanted.price_text})")
    made_from = element(
        "details", element("summary", "The product that the task was made from"), wanted, class_="panel"
    )
    return shop_document(showing, "Score", summary, receipt, parts, made_from)


def _receipt(showing: Showing, bought: Product, options: dict[str, str]) -> Html:
    chosen = ", ".join(f"{axis}: {value}" for axis, value in options.items()) or "no options chosen"
    shown = element("div", picture(bought, options.values(), remote=showing.remote), class_="picture")
    about = element(
        "div",
        element("h2", "You bought"),
        element("p", bought.title, class_="title"),
        element("p", chosen),
        element("p", bought.price_text, class_="price"),
        element("p", bought.asin, class_="asin"),
        class_="details",
    )
    return element("section", shown, about, class_="sub panel")


def _type_part(score: PurchaseScore) -> Html:
    kind = score.type
    facts = [
        _fact(kind.query_match, "found by the same kind of search as the wanted product"),
        _fact(kind.category_match, "in the same categories"),
        _fact(kind.title_score > 0.2, f"{100 * kind.title_score:.0f} % of the nouns of the wanted title"),
    ]
    return _part("Type of product", f"\u00d7 {kind.factor:g}", facts)


def _attributes_part(score: PurchaseScore, goal: Goal, bought: Product) -> Html:
    facts = [_fact(bool(matched_attributes([attribute], bought)), attribute) for attribute in goal.attributes]
    return _part("Attributes", f"{score.attributes_matched} of {score.attributes}", facts)


def _options_part(score: PurchaseScore, goal: Goal, chosen: list[str]) -> Html:
    facts = [
        _fact(bool(matched_options([option], chosen)), option if isinstance(option, str) else ": ".join(option))
        for option in goal.options
    ]
    nothing = [element("span", "the task asks for none")]
    return _part("Options", f"{score.options_matched} of {score.options}", facts or nothing)


def _price_part(score: PurchaseScore, goal: Goal, bought: Product) -> Html:
    limit = "no limit" if goal.price_upper >= NO_LIMIT else f"limit ${goal.price_upper:,.2f}"
    fact = _fact(score.price_ok, f"${bought.price:,.2f} ({limit})")
    return _part("Price", f"{int(score.price_ok)} of 1", [fact])


def _part(name: str, value: str, facts: list[Html]) -> Html:
    return element("div", element("h3", name, element("span", value)), fact_list(facts), class_="part")


def _fact(matches: bool, words: str) -> Html:
    mark, label = ("✓", "matched: ") if matches else ("✗", "not matched: ")
    shown = element("span", mark, class_="yes" if matches else "no", aria_hidden="true")
    return join(shown, element("span", label, class_="unseen"), words)


def _formula(score: PurchaseScore) -> str:
    price = int(score.price_ok)
    matched = f"({score.attributes_matched} + {score.options_matched} + {price})"
    asked = f"({score.attributes} + {score.options} + 1)"
    return f"{score.type.factor:g} \u00d7 {matched} / {asked} = {score.total:.4g}"
