"""The expert solves goals from any state, by page actions alone."""

import random
import re
from collections import Counter

import msgspec
import pytest
from support.environments.webshop_generated import TINY, game, generated_environment
from support.environments.webshop_support import MemoryCatalogue, product, shop_environment

from arlarena.environment.protocols import ExpertUnavailable
from arlarena.environments.webshop.expert import MAX_MOVES, moves, queries, winning_clicks
from arlarena.environments.webshop.shop.goal import Goal


def actions(plan):
    return [re.search("<action>(.*)</action>", reply)[1] for reply in plan]


def play(played, plan):
    for action in plan:
        assert played.accepts(action), action
        played.play(action)
    return played


def shop_of(products, goal):
    return shop_environment(MemoryCatalogue(products, {split: [goal] for split in ("train", "validation", "test")}))


def goal_for(number, options, **changes):
    made = Goal(number, "i need a lotion, and price lower than 90.00 dollars", ["lotion for home"], options, 90.0)
    return msgspec.structs.replace(made, **changes)


def test_expert_solves_200_goals_with_short_plans():
    environment, lengths, by_words = generated_environment(), Counter(), 0
    for index in range(200):
        played = game(environment, "validation", index)
        plan = actions(played.plan())
        by_words += plan[0] != f"search[{played.wanted.title}]"
        lengths[len(plan)] += 1
        assert play(played, plan).score == 1.0
    assert max(lengths) <= 8
    assert by_words > 120  # most goals are found by words of their instruction


def test_expert_continues_from_any_state_and_keeps_its_plan():
    environment, rng = generated_environment(**TINY), random.Random(5)
    for index in range(40):
        played = game(environment, "train", index)
        for _ in range(rng.randint(0, 8)):
            names = [name for name in played.page.clickables if name not in ("buy now", "search")]
            played.play(rng.choice([*(f"click[{name}]" for name in names), "search[rice]", f"search[{played.task}]"]))
        plan = played.plan()
        for place, action in enumerate(actions(plan)):
            assert played.plan() == plan[place:]
            assert played.accepts(action)
            played.play(action)
        assert played.solved


def test_expert_takes_a_page_further_if_that_is_where_the_product_is():
    dear = [product(number, title="Lotion", price=95.0) for number in range(0, 300, 12)]
    right = product(600, title="Lotion", price=20.0)
    environment = shop_of([*dear, right], goal_for(len(dear), [("color", "black")]))
    plan = actions(game(environment, "train", 0).plan())
    clicks = ["next >", "next >", "a000000600", "black", "buy now"]
    assert plan == ["search[lotion]", *(f"click[{name}]" for name in clicks)]


def test_expert_buys_another_product_that_scores_1():
    lost = product(12, title="Zzz", description="", bullets=[""], options={"color": ["black"]})
    other = product(0, title="Lotion of home", nouns=["zzz", "home"])
    environment = shop_of([msgspec.structs.replace(lost, nouns=["zzz"]), other], goal_for(0, [("color", "black")]))
    played = game(environment, "train", 0)
    plan = actions(played.plan())
    assert plan == ["search[lotion]", "click[a000000000]", "click[black]", "click[buy now]"]
    assert play(played, plan).solved


def test_expert_says_why_nothing_scores_1():
    environment = shop_of([product(0)], goal_for(0, [("color", "octarine")]))
    with pytest.raises(ExpertUnavailable, match=r"A000000000 does not score 1 .* at most 0 of 1 options"):
        game(environment, "train", 0).plan()
    environment = shop_of([product(0)], goal_for(0, [], attributes=["gold plated"]))
    with pytest.raises(ExpertUnavailable, match="0 of 1 attributes"):
        game(environment, "train", 0).plan()
    environment = shop_of([product(0, price=100.0)], goal_for(0, []))
    with pytest.raises(ExpertUnavailable, match="price not ok"):
        game(environment, "train", 0).plan()
    hidden = product(0, title="", description="", bullets=[""], options={})
    environment = shop_of([hidden], goal_for(0, []))
    with pytest.raises(ExpertUnavailable, match="no search finds A000000000"):
        game(environment, "train", 0).plan()


def test_expert_changes_wrong_options_and_keeps_right_ones():
    environment = shop_of(
        [product(7, options={"color": ["black", "red"], "size": ["small", "large"]})],
        goal_for(0, [("color", "red"), ("size", "large")], attributes=["boots for home"]),
    )
    played = play(game(environment, "train", 0), ["search[boots]", "click[a000000007]", "click[black]", "click[large]"])
    assert actions(played.plan()) == ["click[red]", "click[buy now]"]
    played.play("click[features]")
    assert actions(played.plan()) == ["click[< prev]", "click[red]", "click[buy now]"]


def test_options_of_one_axis_cannot_both_be_chosen():
    one = product(0, options={"color": ["black", "red"], "trim": ["red", "green"]})
    assert winning_clicks(goal_for(0, ["black", "red"]), one, one, {}) == ["black", "red"]  # the trim is red
    assert winning_clicks(goal_for(0, ["black", "green"]), one, one, {}) == ["black", "green"]
    plain = product(0, options={"color": ["black", "red"]})
    assert winning_clicks(goal_for(0, ["black", "red"]), plain, plain, {}) is None


def test_values_that_act_as_buttons_are_not_chosen():
    one = product(0, options={"go": ["buy now", "< prev", "a]b"]})
    assert winning_clicks(goal_for(0, ["buy now"]), one, one, {}) is None


def test_queries_are_words_of_the_instruction_and_then_the_title():
    instruction = "i am looking for a dust-proof phone case in the color navy blue, and price lower than 40.00 dollars"
    assert queries(instruction, [("color", "navy blue")], "Case [new]") == [
        "dust-proof phone case",
        "dust-proof phone case navy blue",
        "Case new",
    ]
    assert queries("i want it", [], "") == []


def test_thoughts_can_be_left_out():
    shown, silent = (generated_environment(**TINY, expert_think=think) for think in ("plan", "none"))
    assert game(shown, "train", 0).plan()[0].startswith("<think>find the product</think>")
    assert all(reply.startswith("<think></think>") for reply in game(silent, "train", 0).plan())


def test_plan_of_a_finished_visit_is_empty():
    played = game(generated_environment(**TINY), "train", 0)
    assert list(moves(play(played, actions(played.plan())))) == []
    assert MAX_MOVES > 50
