"""Counts of behaviour: patterns as in training, and shopping in the real pages of WebShop."""

import pytest
from support.evaluation.record_support import attempt, turn

from arlarena.environments.webshop.environment import WebShopEnvironment, load
from arlarena.proto.trajectory import Task
from arlarena.rollout.evaluation.records import AttemptRecord
from arlarena.rollout.evaluation.statistics.behaviour import behaviour, is_webshop, mean_behaviour, shopping


@pytest.fixture(scope="module", params=["text", "rich"])
def shop(request: pytest.FixtureRequest) -> WebShopEnvironment:
    return load("options", {"products": 300, "observation": request.param})


def visit(shop: WebShopEnvironment, *actions: str, success: bool = False) -> AttemptRecord:
    """Plays the actions in the shop. `item N` clicks the product at position N of the page, `option N` the option."""
    game = shop.game(Task("webshop", "test", 0))
    turns = []
    for action in actions:
        word, _, number = action.partition(" ")
        if word in ("item", "option"):
            wanted = "product" if word == "item" else "axis"
            names = [name for name, one in game.page.clickables.items() if getattr(one, wanted) is not None]
            action = f"click[{names[int(number)]}]"
        turns.append(turn(game.text(), action, action_valid=game.accepts(action)))
        game.play(action)
    return attempt(0, success=success, environment="webshop", turns=tuple(turns))


SEARCH, NEXT, PREVIOUS, BUY = "search[red shirt]", "click[next >]", "click[< prev]", "click[buy now]"


@pytest.mark.parametrize(
    ("actions", "turned", "in_vain"),
    [
        ((SEARCH, "item 0"), 0, 0),
        ((SEARCH, NEXT, NEXT, "item 1"), 2, 0),
        ((SEARCH, NEXT, PREVIOUS, "item 1"), 2, 2),
        ((SEARCH, NEXT, NEXT, PREVIOUS, "item 1"), 3, 2),
        ((SEARCH, NEXT, NEXT, SEARCH, "item 0"), 2, 2),
        ((SEARCH, NEXT, "click[back to search]", SEARCH), 1, 1),
        ((SEARCH, NEXT, NEXT), 2, 2),
        # Not accepted: there is no page before the first.
        ((SEARCH, PREVIOUS, NEXT, "item 0"), 1, 0),
        # From a product, `< Prev` leads back to its page of results, and the next browse starts there.
        ((SEARCH, NEXT, "item 0", PREVIOUS, NEXT, "item 0"), 2, 0),
        ((SEARCH, NEXT, "item 0", PREVIOUS, PREVIOUS, SEARCH), 2, 1),
        # `< Prev` on a sub-page of a product turns no page.
        ((SEARCH, "item 0", "click[features]", PREVIOUS, PREVIOUS, "item 1"), 0, 0),
    ],
)
def test_page_turns_beyond_the_shortest_way_to_a_product_are_in_vain(
    shop: WebShopEnvironment, actions: tuple[str, ...], turned: int, in_vain: int
) -> None:
    counts = shopping(visit(shop, *actions))
    assert (counts["page_turns"], counts["page_turns_in_vain"]) == (turned, in_vain)


@pytest.mark.parametrize(
    ("actions", "success", "purchases", "too_early"),
    [
        ((SEARCH, "item 0", BUY), False, 1, 1),
        ((SEARCH, "item 0", BUY), True, 1, 0),
        # The first product, although options were chosen.
        ((SEARCH, "item 0", "option 0", BUY), False, 1, 1),
        # A second product without a chosen option.
        ((SEARCH, "item 0", PREVIOUS, "item 1", BUY), False, 1, 1),
        ((SEARCH, "item 0", "option 0", PREVIOUS, "item 1", BUY), False, 1, 1),
        ((SEARCH, "item 0", PREVIOUS, "item 1", "option 0", BUY), False, 1, 0),
        ((SEARCH, "item 0", PREVIOUS, "item 1", "option 0", "click[features]", PREVIOUS, BUY), False, 1, 0),
        # Not accepted: a page of results has no such button.
        ((SEARCH, BUY), False, 0, 0),
    ],
)
def test_purchases_without_alternatives_or_options_are_too_early(
    shop: WebShopEnvironment, actions: tuple[str, ...], success: bool, purchases: int, too_early: int
) -> None:
    counts = shopping(visit(shop, *actions, success=success))
    assert (counts["purchases"], counts["purchases_too_early"]) == (purchases, too_early)


def test_only_attempts_in_webshop_have_counts_of_shopping(shop: WebShopEnvironment) -> None:
    assert is_webshop(visit(shop, SEARCH))
    assert "purchases" in behaviour(visit(shop, SEARCH))
    assert "purchases" not in behaviour(attempt(0, turns=(turn("a room", "up"),)))
    assert not is_webshop(attempt(0))


def test_patterns_are_counted_from_turns_as_while_playing() -> None:
    # a -up-> b -down-> a -up-> b -wall-> b -nonsense-> b
    steps = [("a", "up"), ("b", "down"), ("a", "up"), ("b", "wall"), ("b", "nonsense")]
    turns = tuple(
        turn("", action, state_key=state, action_valid=action != "nonsense", no_action=action == "nonsense")
        for state, action in steps
    )
    counts = behaviour(attempt(0, turns=turns))
    assert counts == {
        "repeated_actions": 1.0,  # up in a
        "back_and_forth": 2.0,  # down back to a, and up back to b
        "invalid_actions": 1.0,
        "idle_turns": 1.0,  # wall; the state after the last turn is unknown
        "no_action_turns": 1.0,
    }
    played = dict.fromkeys(counts, 7.0)
    assert behaviour(attempt(0, turns=turns, metrics=played | {"turns": 5.0})) == played


def test_means_are_over_tasks_and_over_scored_attempts_that_have_the_count(shop: WebShopEnvironment) -> None:
    records = [
        visit(shop, SEARCH, NEXT),
        visit(shop, SEARCH, NEXT, NEXT, NEXT),
        attempt(1, turns=(turn("", "x", action_valid=False),)),
        attempt(2, status="infra_error", turns=(turn("", "x", action_valid=False),)),
    ]
    means = mean_behaviour(records)
    assert means["page_turns"] == 2.0
    assert means["invalid_actions"] == 0.5  # of two tasks, the first with two attempts
